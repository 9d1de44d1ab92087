#!/usr/bin/env bash
# SoftHSM: throughput over 64 TLS connections against a bare loop with its best number of sessions
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
connections="${CONNECTIONS:-64}"

begin demo
token xks
one="$(loop "$softhsm" xks 1)"
two="$(loop "$softhsm" xks 2)"
configure --module "$softhsm" --token xks --pin-file "$dir/pin" --profile softhsm
serve
load --closed --connections "$connections"

table "32-byte CDIV encrypts" "a second" "p50 ms" "p99 ms" "CPU of xksd and SoftHSM, µs a request"
row "bare loop over SoftHSM, 1 session" "$one" "" "" ""
row "bare loop over SoftHSM, 2 sessions" "$two" "" "" ""
row "xksd, $connections connections" "$(field '.throughput | floor')" "$(ms "$(field .latency.p50)")" "$(ms "$(field .latency.p99)")" \
    "$(field '.proxy.cpu.us_per_request | floor')"
echo
best="$((one > two ? one : two))"
aim "xksd over the better bare loop" "$(calc %.2f "$(field .throughput) / $best")" '>=' 0.80
finish
