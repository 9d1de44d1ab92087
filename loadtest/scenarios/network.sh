#!/usr/bin/env bash
# Network HSM (1 ms a call, 16 units x 0.4 ms, 64 sessions): throughput over 64 TLS connections against a bare loop
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
connections="${CONNECTIONS:-64}"
sessions="${SESSIONS:-64}"

begin demo
simulator xks <<T
[wire]
fixed_us = ${WIRE_US:-1000}
[device]
units = ${UNITS:-16}
service_us = ${SERVICE_US:-400}
T
alone="$(loop "$dir/xks.so" xks "$sessions")"
configure_simulator xks "$sessions"
serve
load --closed --connections "$connections"

table "32-byte CDIV encrypts" "a second" "p50 ms" "p99 ms" "CPU of xksd and the simulator, µs a request"
row "bare loop, $sessions sessions" "$alone" "" "" ""
row "xksd, $connections connections" "$(field '.throughput | floor')" "$(ms "$(field .latency.p50)")" "$(ms "$(field .latency.p99)")" \
    "$(field '.proxy.cpu.us_per_request | floor')"
echo
# No aim: client, simulator and proxy share the cores, and how near it gets is a question of how many there are.
note "xksd over the bare loop: $(calc %.2f "$(field .throughput) / $alone")"
finish
