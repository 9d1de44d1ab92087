#!/usr/bin/env bash
# Two key stores over one slow HSM (4 ms a call, 8 sessions): one at ten times its capacity, the other at a tenth; p99 of the other against by itself
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
seconds="${SECONDS_A_RUN:-20}"
sessions=8
set_rounds 3

# The second key store, with a credential of its own: its access key id is $calm.
second_key_store() {
    local secret="$dir/demo/secrets/calm" managers
    managers="$(grep -m1 '^key_manager = ' "$config")"
    rm -f "$secret"
    "$bin/xksd" credential new --write-secret "$secret" >"$dir/calm.toml" 2>/dev/null
    calm="$(sed -n 's/^access_key_id = "\(.*\)"/\1/p' "$dir/calm.toml")"
    cat >>"$config" <<T

[[keystore]]
path_prefix = "/calm"
$managers
[[keystore.credential]]
access_key_id = "$calm"
secret_access_key = { file = "secrets/calm" }
[[keystore.key]]
id = "demo"
T
}

# Requests of the calm key store; its figures are in $dir/report.json.
calm_load() { load --rate "$calm_rate" --connections 16 --keystore "/calm:$calm:$dir/demo/secrets/calm" --key demo; }

begin demo
simulator xks <<T
[wire]
fixed_us = 4000
T
whole="$seconds"
seconds="$((seconds < 5 ? seconds : 5))"
capacity="$(loop "$dir/xks.so" xks "$sessions")"
seconds="$whole"
configure_simulator xks "$sessions"
second_key_store
serve
calm_rate="$(calc %d "$capacity / 10")"
for round in $(seq "$rounds"); do
    say "round $round of $rounds"
    calm_load
    field .latency.p99 >>"$dir/alone.p99"
    "$bin/xksd-load" run --config "$config" --json "$dir/flood.json" --mix encrypt=1 --tls 1.3 --rate "$((capacity * 10))" \
        --connections 512 --warmup 1s --duration "$((seconds + 4))s" >"$dir/flood.txt" 2>&1 &
    flood=$!
    children[$flood]=xksd-load
    sleep 2
    calm_load
    field .latency.p99 >>"$dir/beside.p99"
    field .errors >>"$dir/beside.errors"
    wait "$flood" || true
    unset "children[$flood]"
    field .throughput "$dir/flood.json" >>"$dir/flood.throughput"
done

alone="$(middle <"$dir/alone.p99")"
beside="$(middle <"$dir/beside.p99")"
ratio="$(calc %.2f "$beside / $alone")"
table "key store" "offered, of the capacity" "answered a second" "p99 ms ($(in_rounds))"
row "calm, by itself" "0.1" "$calm_rate" "$(ms "$alone")"
row "calm, beside the flood" "0.1" "$(field '.throughput | floor')" "$(ms "$beside")"
row "flood" "10" "$(calc %d "$(middle <"$dir/flood.throughput")")" ""
echo
note "bare loop: $capacity/s"
aim "p99 beside the flood over by itself" "$ratio" '<=' 1.5
aim "errors of the calm key store" "$(awk '{ sum += $1 } END { print sum }' "$dir/beside.errors")" '==' 0
finish
