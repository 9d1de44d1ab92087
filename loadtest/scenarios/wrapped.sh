#!/usr/bin/env bash
# Keys wrapped by an HSM: against keys in a file and nginx, an SLA over a slow HSM, 10,000 keys [REPORT.html: where the report of the SLA is kept, as REPORT.json too]
# shellcheck source=loadtest/scenarios/common.sh
report="${1:+$(realpath "$1")}"
. "$(dirname "$0")/common.sh"
seconds="${SECONDS_A_RUN:-5}"
set_rounds 3
keys="${KEYS:-10000}"

# A simulated HSM with a master in place of the demo's key manager: wrap SESSIONS
wrap() {
    sed -i '/^\[\[key_manager\]\]/,/^\[\[keystore\]\]/{/^\[\[keystore\]\]/!d}' "$config"
    sed -i 's/^key_manager = .*/key_manager = ["near"]/' "$config"
    cat >>"$config" <<T
[[key_manager]]
name = "hsm"
kind = "pkcs11"
module = "$dir/xks.so"
token = "xks"
pin = { file = "$dir/pin" }
sessions = $1
environment = { SOFTHSM2_CONF = "$SOFTHSM2_CONF" }
[[key_manager]]
name = "near"
kind = "wrapped"
folder = "$dir/keys"
unseal_with = ["hsm"]
master = "demo"
recheck_s = 1
T
}

# The only key file is made anew with this cipher.
key_of_cipher() {
    rm -rf "$dir/keys" "$dir/demo/state"
    "$bin/xksd" key create --config "$config" --key-manager near --label demo --cipher "$1" >/dev/null
}

# serve_as VARIANT
serve_as() {
    cp "$dir/$([ "$1" = local ] && echo local || echo wrapped).toml" "$config"
    rm -rf "$dir/demo/state"
    [ "$1" = local ] || key_of_cipher "${1#cipher-}"
    serve
}

measure() {
    serve_as "$1"
    load --closed --connections 64
    field '"\(.throughput) \(.latency.p50) \(.proxy.cpu.us_per_request)"' >>"$dir/$1.figures"
    [ "$(field .errors)" = 0 ] || say "$1: $(errors_by_name)"
    stop_server
}
measure_nginx() {
    say "nginx"
    start_load --mix encrypt=1 --tls 1.3 --closed --unverified --connections 64 --connect "$quiet" \
        --pid "$master" --warmup 1s --duration "${seconds}s"
    await_load
    field '"\(.throughput) \(.latency.p50) 0"' >>"$dir/nginx.figures"
}
median() { awk -v column="$2" '{ print $column }' "$dir/$1.figures" | middle; }
over() { calc %.2f "$(median "$1" 1) / $(median "$2" 1)"; }

begin demo nginx
simulator xks <<'T'
[wire]
fixed_us = 10000
T
configure
cp "$config" "$dir/local.toml"
wrap 2
cp "$config" "$dir/wrapped.toml"

quiet="127.0.0.1:$(free_port)"
# As long as an answer of xksd.
body="$(head -c 230 /dev/zero | tr '\0' x)"
start_nginx "$quiet" 4096 "server { listen $quiet ssl reuseport backlog=4096; access_log off;
    location / { default_type application/json; return 200 '$body'; } }"

variants=(local cipher-1 cipher-2)
for _ in $(seq "$rounds"); do
    for variant in "${variants[@]}"; do measure "$variant"; done
    measure_nginx
done
echo "64 connections, runs of $seconds s that alternate, $(in_rounds)."
echo
table "keys" "32-byte CDIV encrypts a second" "of those in a file" "p50 ms" "CPU of xksd, µs a request"
for variant in "${variants[@]}"; do
    row "$variant" "$(calc %d "$(median "$variant" 1)")" "$(over "$variant" local)" \
        "$(calc %.3f "$(median "$variant" 2) / 1000")" "$(calc %.1f "$(median "$variant" 3)")"
done
echo

say "SLA: all four calls, 1,800/s over an HSM of 10 ms with 2 sessions"
serve_as cipher-2
start_load --mix encrypt=45,decrypt=45,metadata=5,health=5 --tls 1.3 --rate 1800 \
    --duration "${SLA_SECONDS:-60}s" --warmup 1s --sla p99.9=5ms --max-errors 0 --html "$dir/report.html"
await_load
sla="$(ms "$(field .latency.p999)")"
errors="$(field '.errors + .wrong')"
keep_report "$report"
echo "1,800 requests/s, all four calls, an HSM of 10 ms a call with 2 sessions, asked every second."
echo
table_of_calls
stop_server
echo

say "the same with the key in the HSM"
sed 's/^key_manager = .*/key_manager = ["hsm"]/' "$dir/wrapped.toml" >"$config"
rm -rf "$dir/demo/state"
serve
start_load --mix encrypt=45,decrypt=45,metadata=5,health=5 --tls 1.3 --rate 1800 --duration 10s --warmup 1s
await_load
note "the same load with \`kind = \"pkcs11\"\`: $(calc %d "$(field .throughput)") answered right a second"
note "errors of it in 10 s: $(errors_by_name)"
stop_server
echo

say "$keys key files"
token many
sed -e 's/^token = .*/token = "many"/' -e "s#^module = .*#module = \"$softhsm\"#" "$dir/wrapped.toml" >"$config"
rm -rf "$dir/keys" "$dir/demo/state"
begun="$(milliseconds)"
for key in $(seq "$keys"); do
    "$bin/xksd" key create --config "$config" --key-manager near --label "key-$key" >/dev/null
done
made=$(($(milliseconds) - begun))
"$bin/xksd" key create --config "$config" --key-manager near --label demo >/dev/null
begun="$(milliseconds)"
serve
until status | jq -e '.wrapped_key_managers[0].state == "open"' >/dev/null; do sleep 0.1; done
note "$((keys + 1)) key files over SoftHSM: open $(calc %.1f "($(milliseconds) - $begun) / 1000") s after the start; making one took $((made / keys)) ms"
note "resident memory with them: $(($(memory) / 1024)) MiB"
load --closed --connections 64
note "throughput with them over one key's: $(calc %.2f "$(field .throughput) / $(median cipher-2 1)")"
stop_server
echo
aim "throughput of cipher 1 over keys in a file" "$(over cipher-1 local)" '>=' 0.95
aim "throughput of cipher 1 over nginx with a static body" "$(over cipher-1 nginx)" '>=' 0.7
aim "throughput of cipher 2 over nginx with a static body" "$(over cipher-2 nginx)" '>=' 0.7
aim "CPU of cipher 2 over cipher 1, µs a request" "$(calc %.1f "$(median cipher-2 3) - $(median cipher-1 3)")" '<=' 1
aim "p99.9 over the slow HSM, ms" "$sla" '<=' 5
aim "errors and wrong answers over the slow HSM" "$errors" '==' 0
finish
