#!/usr/bin/env bash
# Kill switch: `xksd block` under 1,800 requests/s; how long after it the last request was answered with a key
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
seconds="${SECONDS_A_RUN:-4}"
set_rounds 5

# Unix ms of the last request in the log that used a key.
last_use() {
    jq -rs '[.[] | select(.event == "request" and .error == "none" and .operation != "health") | .time] | max' "$dir/log"
}

begin demo
configure
state="$dir/state"
sed -i "s|^\[server\]|&\nstate_directory = \"$state\"\ncontrol_socket = \"$dir/control.sock\"|" "$config"

table "round" "the command took, ms" "last use of a key after the command began, ms" "after it ended, ms" "errors"
latest=0
for round in $(seq "$rounds"); do
    rm -rf "$state"
    serve
    start_load --mix encrypt=50,decrypt=50 --tls 1.3 --rate 1800 --connections 64 --warmup 1s --duration "${seconds}s"
    sleep 2
    began="$(milliseconds)"
    "$bin/xksd" block --config "$config" --key-store /demo --reason "scripts/performance" >&2
    ended="$(milliseconds)"
    await_load
    stop_server
    last="$(date -d "$(last_use)" +%s%3N)"
    since="$((last - began))"
    past="$((last - ended))"
    row "$round" "$((ended - began))" "$since" "$past" "$(errors_by_name)"
    latest="$((since > latest ? since : latest))"
done
echo
aim "last use of a key after the command began, ms" "$latest" '<=' 100
finish
