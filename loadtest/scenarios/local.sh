#!/usr/bin/env bash
# Keys in a file: throughput over 64 TLS connections, CPU a request, latency of one connection
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
connections="${CONNECTIONS:-64}"

begin demo
configure
serve
table "connections" "32-byte CDIV encrypts a second" "p50 ms" "p99 ms" "CPU of xksd, µs a request" "CPU of the client, µs a request"
for count in "$connections" 1; do
    load --closed --connections "$count"
    row "$count" "$(field '.throughput | floor')" "$(calc %.3f "$(field .latency.p50) / 1000")" "$(calc %.3f "$(field .latency.p99) / 1000")" \
        "$(field '.proxy.cpu.us_per_request * 10 | floor / 10')" "$(field '.generator.cpu_us_per_request * 10 | floor / 10')"
    [ "$count" = 1 ] || cpu="$(field .proxy.cpu.us_per_request)"
done
echo
# Both AES-GCM operations are in it: this key manager has no library whose time could be taken off.
aim "CPU of xksd, µs a request over $connections connections" "$(calc %.1f "$cpu")" '<=' 25
finish
