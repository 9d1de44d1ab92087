#!/usr/bin/env bash
# Two replicas (1 ms a call, 32 sessions each), one killed under 50 % load of one of them: errors, latest answer
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
sessions=32

errors=0 latest=0

# kill_one NAME FAULT: two seconds of peace, then nothing but the fault.
kill_one() {
    say "one replica dies: $1"
    configure_simulator a "$sessions"
    # Which of the two is asked first is xksd's choice: the one that does more before it dies is killed.
    cat >>"$config" <<T
[[key_manager]]
name = "b"
kind = "pkcs11"
module = "$dir/b.so"
token = "b"
pin = { file = "$dir/pin" }
profile = "generic"
sessions = $sessions
T
    sed -i 's/^key_manager = .*/key_manager = ["demo", "b"]/' "$config"
    serve
    start_load --mix encrypt=50,decrypt=50 --tls 1.3 --rate "$rate" --connections "$((rate / 4 + 64))" --warmup 1s --duration "$((2 + seconds))s"
    sleep 3
    local busier
    busier="$(curl -sf "http://$admin/metrics" | awk '/^xksd_jobs_total.*"demo"/ { a = $2 } /^xksd_jobs_total.*"b"/ { b = $2 } END { print (a >= b ? "a" : "b") }')"
    fault "$busier" "$2"
    await_load
    row "$1" "$(field .offered)" "$(field .wrong)" "$(field .answers.none)" "$(errors_by_name)" "$(ms "$(field .answers.latest_us)")" \
        "$(ms "$(field .latency.p99)")"
    errors=$((errors + $(field .errors)))
    latest="$(field "[$latest, .answers.latest_us] | max")"
    fault "$busier" ""
    stop_server
}

begin demo
for label in a b; do
    simulator "$label" <<'T'
[wire]
fixed_us = 1000
T
done
alone="$(loop "$dir/a.so" a "$sessions")"
rate="$((alone / 2))"

echo "$rate requests/s (encrypts and decrypts): half of what a bare loop over one replica reaches."
echo
table "one replica" "requests" "wrong answers" "without an answer" "errors" "latest answer, ms" "p99 ms"
kill_one "hangs in every call" 'hang = "*"'
kill_one "loses its token" 'token_removed = true'
kill_one "fails every call" 'error = { call = "*", code = "CKR_DEVICE_ERROR" }'
echo
aim "errors" "$errors" '==' 0
aim "latest answer, ms" "$(ms "$latest")" '<' 250
finish
