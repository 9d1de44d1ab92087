#!/usr/bin/env bash
# Idle connections: p99 at 5,000/s (keys in a file) without, with 10,000 idle TLS connections to xksd, and with as many to nginx; memory of each
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
set_rounds 5
idle=10000
rate=5000

begin demo nginx
# Each end of a connection is a descriptor: in the server, and in the client.
ulimit -n "$(ulimit -Hn)"
[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge $((idle + 500)) ] ||
    die "$((idle + 500)) open files are needed, $(ulimit -n) are allowed: ulimit -Hn, LimitNOFILE= or /etc/security/limits.conf"
configure
serve
nginx="127.0.0.1:$(free_port)"
start_nginx "$nginx" $((idle + 500)) "server { listen $nginx ssl reuseport backlog=16384; access_log off; return 200; }"

# hold ADDRESS ARGUMENTS: a client that holds idle connections to there, for as long as a load takes.
hold() {
    local tenths
    say "hold: $idle connections to $1"
    rm -f "$dir/held.json"
    "$bin/xksd-load" run --config "$config" --connect "$1" --mix encrypt=1 --tls 1.3 --rate 1 --connections 1 --idle "$idle" \
        --warmup 0s --duration $((seconds + 5))s --json "$dir/held.json" "${@:2}" >"$dir/hold.txt" 2>"$dir/hold.err" &
    holder=$!
    children[$holder]=xksd-load
    for tenths in $(seq 600); do
        sleep 0.1
        kill -0 "$holder" 2>/dev/null || die "connections could not be held: $(head -3 "$dir/hold.err")"
        [ "$(find "/proc/$holder/fd" | wc -l)" -lt "$idle" ] || break
    done
    # The client lets the proxy's memory settle for a moment.
    sleep 1
}

release() {
    wait "$holder" || true
    unset "children[$holder]"
    lost="$((lost + $(field '.idle.asked - .idle.opened + .idle.closed' "$dir/held.json")))"
}

# measure WHERE: a row, and a line in $dir/p99.WHERE
measure() {
    load --rate "$rate" --connections 64
    row "$1" "$(field '.throughput | floor')" "$(calc %.3f "$(field .latency.p50) / 1000")" "$(calc %.3f "$(field .latency.p90) / 1000")" \
        "$(calc %.3f "$(field .latency.p99) / 1000")" "$(calc %.3f "$(field .latency.p999) / 1000")" "$(calc %.1f "$(field .proxy.cpu.us_per_request)")" "$(errors_by_name)"
    field .latency.p99 >>"$dir/p99.$1"
}
p99() { middle <"$dir/p99.$1"; }

echo "$rate encrypts a second to xksd, and beside them a client that holds $idle idle connections."
echo
table "idle connections to" "answered, a second" "p50 ms" "p90 ms" "p99 ms" "p99.9 ms" "CPU of xksd, µs a request" "errors"
lost=0 memory=""
for _ in $(seq "$rounds"); do
    measure none
    hold "$nginx" --unverified
    measure nginx
    release
    hold "$xks"
    measure xksd
    release
    # Only the first ten thousand: later ones find the memory that those before them left in the allocator.
    memory="${memory:-$(field .idle.memory.bytes_a_connection "$dir/held.json")}"
done
echo
note "memory of an idle connection: $(calc %.1f "$memory / 1024") KiB"
aim "idle connections that were refused or closed" "$lost" '==' 0
note "p99 with idle connections to nginx over p99 without, $(in_rounds): $(calc %.2f "$(p99 nginx) / $(p99 none)")"
note "p99 with idle connections to xksd over p99 without: $(calc %.2f "$(p99 xksd) / $(p99 none)")"
aim "p99 with idle connections to xksd over p99 with those to nginx" "$(calc %.2f "$(p99 xksd) / $(p99 nginx)")" '<=' 1.25
finish
