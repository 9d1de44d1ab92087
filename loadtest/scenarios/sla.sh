#!/usr/bin/env bash
# SLA: all four calls at 1,800/s for 60 s over an HSM of 2 ms a call: p99.9 within 250 ms, no errors [REPORT.html: where the report is kept, as REPORT.json too]
# shellcheck source=loadtest/scenarios/common.sh
report="${1:+$(realpath "$1")}"
. "$(dirname "$0")/common.sh"
seconds="${SECONDS_A_RUN:-60}"
sessions=32

begin demo
simulator xks <<'T'
[wire]
fixed_us = 2000
T
configure_simulator xks "$sessions"
serve
say "load: all four calls, 1,800/s for $seconds s"
start_load --mix encrypt=45,decrypt=45,metadata=5,health=5 --tls 1.3 --rate 1800 --duration "${seconds}s" --warmup 1s --sla p99.9=250ms --max-errors 0 --html "$dir/report.html"
await_load
keep_report "$report"

table_of_calls
echo
[ -z "$report" ] || say "report: $report"
aim "p99.9, ms" "$(ms "$(field .latency.p999)")" '<=' 250
aim "errors and wrong answers" "$(field '.errors + .wrong')" '==' 0
aim "offered, a second" "$(calc %.0f "$(field '.offered / .seconds')")" '>=' 1750
finish
