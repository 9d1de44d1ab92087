#!/usr/bin/env bash
# SoftHSM tokens with thousands of keys: time until ready, `xksd keys`, memory, and throughput and p99 beside a listing of the token [TOKEN_KEYS:CONFIGURED…]
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
read -ra sizes <<<"${*:-5000:300 5000:600 10000:10000}"
connections=64
worst_throughput=1
highest_p99=0
failed=0
unnamed=0
missing=0

begin demo

# A token with so many keys, once: keys_on TOKEN COUNT
keys_on() {
    [ ! -d "$dir/made-$1" ] || return 0
    say "making $2 keys"
    token "$1"
    HSM_LOOP_PIN=123456 "$bin/hsm-keys" --module "$softhsm" --token "$1" --keys "$2"
    mkdir "$dir/made-$1"
}

# The configuration with the first so many keys and one that is not there: expect TOKEN COUNT
expect() {
    configure --module "$softhsm" --token "$1" --pin-file "$dir/pin" --profile softhsm
    seq "$2" | sed 's/.*/\n[[keystore.key]]\nid = "key-&"/' >>"$config"
    printf '\n[[keystore.key]]\nid = "nobody"\n' >>"$config"
}

# Starts the server: sets ready_ms.
start() {
    local begun
    begun="$(milliseconds)"
    "$bin/xksd" serve --config "$config" 2>"$dir/log" &
    server=$!
    children[$server]=xksd
    until curl -sf "http://$admin/readyz" >/dev/null; do
        kill -0 "$server" 2>/dev/null || die "xksd ended: $(tail -3 "$dir/log")"
        [ $(($(milliseconds) - begun)) -lt 120000 ] || die "xksd is not ready"
        sleep 0.02
    done
    ready_ms=$(($(milliseconds) - begun))
    started=$begun
}

# When a line was logged, in seconds.
seconds_of() { date -d "$(jq -r .time <<<"$1")" +%s.%N; }

# Waits until the log names the key that is missing: sets named_s, from the log's first line.
await_named() {
    until grep -q 'nobody.*cannot serve' "$dir/log"; do
        [ $(($(milliseconds) - started)) -lt 300000 ] || { named_s="never"; unnamed=1; return; }
        sleep 0.1
    done
    named_s="$(calc %.1f "$(seconds_of "$(grep -m1 'nobody.*cannot serve' "$dir/log")") - $(seconds_of "$(head -1 "$dir/log")")")"
}

# Has the server list the whole token: more keys are missing than it searches for one by one.
list_again() {
    missing=$((missing + 20))
    seq "$missing" | tail -20 | sed 's/.*/\n[[keystore.key]]\nid = "none-&"/' >>"$config"
    kill -HUP "$server"
}

table "keys on the token" "configured" "\`xksd keys\`, s" "its memory, MiB" "ready, s" "missing key named after, s" "memory, MiB" \
    "requests/s beside a listing" "over those with one key" "p99 ms" "over that with one key" "errors"
for size in "${sizes[@]}"; do
    on_token="${size%%:*}" configured="${size##*:}"
    keys_on "many$on_token" "$on_token"

    # One key: what the same token gives without many.
    expect "many$on_token" 1
    start
    await_named
    load --key key-1 --closed --connections "$connections"
    one="$(field .throughput)"
    rate="$(calc %.0f "$one * 0.5")"
    load --key key-1 --rate "$rate" --connections "$connections"
    one_p99="$(field .latency.p99)"
    stop_server

    expect "many$on_token" "$configured"
    say "xksd keys"
    begun="$(milliseconds)"
    "$bin/xksd" keys --config "$config" >"$dir/keys.txt" 2>/dev/null &
    lister=$!
    children[$lister]=xksd
    keys_kib=0
    while peak="$(awk '/^VmHWM/ { print $2 }' "/proc/$lister/status" 2>/dev/null)" && [ -n "$peak" ]; do
        keys_kib="$peak"
        sleep 0.02
    done
    # One key is missing, so its exit code is 1.
    wait "$lister" || true
    unset "children[$lister]"
    keys_s="$(calc %.1f "($(milliseconds) - $begun) / 1000")"
    grep -q 'key nobody .*CANNOT SERVE' "$dir/keys.txt" || unnamed=1
    [ "$(grep -c 'can serve' "$dir/keys.txt")" -ge "$configured" ] || die "xksd keys: $(tail -3 "$dir/keys.txt")"

    start
    await_named
    memory="$(calc %.0f "$(memory) / 1024")"
    list_again
    load --key key-1 --closed --connections "$connections"
    many="$(field .throughput)"
    list_again
    load --key key-1 --rate "$rate" --connections "$connections"
    errors="$(errors_by_name)"
    failed=$((failed + $(field .errors)))
    many_p99="$(field .latency.p99)"
    stop_server

    throughput="$(calc %.2f "$many / $one")" p99="$(calc %.2f "$many_p99 / $one_p99")"
    worst_throughput="$(calc %.2f "($throughput < $worst_throughput) ? $throughput : $worst_throughput")"
    highest_p99="$(calc %d "($many_p99 > $highest_p99) ? $many_p99 : $highest_p99")"
    row "$on_token" "$configured" "$keys_s" "$(calc %.0f "$keys_kib / 1024")" "$(calc %.1f "$ready_ms / 1000")" "$named_s" \
        "$memory" "$(calc %.0f "$many")" "$throughput" "$(ms "$many_p99")" "$p99" "$errors"
done
echo
echo "p99 at half of the throughput with one key."
echo
aim "throughput beside a listing over that with one key" "$worst_throughput" '>=' 0.80
aim "p99 beside a listing, ms" "$(ms "$highest_p99")" '<' 200
aim "errors beside a listing" "$failed" '==' 0
aim "missing keys that were not named" "$unnamed" '==' 0
finish
