#!/usr/bin/env bash
# Idle connections: p99 at 5,000/s (keys in a file) without and with 10,000 idle TLS connections, memory of each
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
rounds="${ROUNDS:-3}"
idle=10000
rate=5000

begin demo
# Each end of a connection is a descriptor: in xksd, and in the client.
ulimit -n "$(ulimit -Hn)"
[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge $((idle + 500)) ] ||
    die "$((idle + 500)) open files are needed, $(ulimit -n) are allowed: ulimit -Hn, LimitNOFILE= or /etc/security/limits.conf"
configure
serve

table "idle connections" "answered, a second" "p50 ms" "p99 ms" "p99.9 ms" "errors"
without=0 with=0
for _ in $(seq "$rounds"); do
    for count in 0 "$idle"; do
        load --rate "$rate" --connections 64 --idle "$count"
        row "$count" "$(field '.throughput | floor')" "$(calc %.3f "$(field .latency.p50) / 1000")" "$(calc %.3f "$(field .latency.p99) / 1000")" \
            "$(calc %.3f "$(field .latency.p999) / 1000")" "$(errors_by_name)"
        if [ "$count" = 0 ]; then without="$((without + $(field .latency.p99)))"; else with="$((with + $(field .latency.p99)))"; fi
    done
done
echo
echo "memory of an idle connection: $(calc %.1f "$(field .idle.bytes_a_connection) / 1024") KiB"
aim "idle connections that were closed" "$(field .idle.closed)" '==' 0
aim "p99 with idle connections over p99 without, means of $rounds" "$(calc %.2f "$with / $without")" '<=' 1.25
finish
