#!/usr/bin/env bash
# Idle connections: p99 at 5,000/s (keys in a file) without and with 10,000 idle TLS connections, memory of each
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
rounds="${ROUNDS:-5}"
idle=10000
rate=5000

begin demo
# Each end of a connection is a descriptor: in xksd, and in the client.
ulimit -n "$(ulimit -Hn)"
[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge $((idle + 500)) ] ||
    die "$((idle + 500)) open files are needed, $(ulimit -n) are allowed: ulimit -Hn, LimitNOFILE= or /etc/security/limits.conf"
configure
serve

table "idle connections" "answered, a second" "p50 ms" "p99 ms" "p99.9 ms" "CPU of xksd, µs a request" "errors"
lost=0 memory=""
for _ in $(seq "$rounds"); do
    for count in 0 "$idle"; do
        load --rate "$rate" --connections 64 --idle "$count"
        row "$count" "$(field '.throughput | floor')" "$(calc %.3f "$(field .latency.p50) / 1000")" "$(calc %.3f "$(field .latency.p99) / 1000")" \
            "$(calc %.3f "$(field .latency.p999) / 1000")" "$(calc %.1f "$(field .server.cpu.us_per_request)")" "$(errors_by_name)"
        field .latency.p99 >>"$dir/p99.$count"
        if [ "$count" != 0 ]; then
            lost="$((lost + $(field '.idle.asked - .idle.opened + .idle.closed')))"
            # Only the first ten thousand: later ones find the memory that those before them left in the allocator.
            memory="${memory:-$(field .idle.memory.bytes_a_connection)}"
        fi
    done
done
echo
echo "memory of an idle connection: $(calc %.1f "$memory / 1024") KiB"
aim "idle connections that were refused or closed" "$lost" '==' 0
aim "p99 with idle connections over p99 without, medians of $rounds" "$(calc %.2f "$(middle <"$dir/p99.$idle") / $(middle <"$dir/p99.0")")" '<=' 1.25
finish
