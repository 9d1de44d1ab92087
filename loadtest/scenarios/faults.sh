#!/usr/bin/env bash
# Fault table: every fault of hsm-sim for some seconds under 50 % load: wrong, silent and late answers, errors by name, time to heal [PATTERN: rows whose name has it]
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
pattern="${1:-}"
seconds="${SECONDS_A_RUN:-4}"
sessions=16
# After a fault is over: xksd tries a lost module again every 5 s and gives an opening session 10 s.
patience="${PATIENCE_SECONDS:-14}"

wrong=0 silent=0 latest=0 sick=0 ended=0 rows=0

# A row: try NAME SIMULATOR MIX FAULT [WHAT STAYS]. A new xksd for each, so that what one fault leaves behind is not counted for the next.
try() {
    [[ "$1" == *"$pattern"* ]] || return 0
    say "fault: $1"
    configure_simulator "$2" "$sessions"
    [ "$2" != cloudhsm ] || sed -i 's/^profile = .*/profile = "cloudhsm"/' "$config"
    serve
    # Connections for all that is under way when nothing is answered before the budget ends (200 ms).
    start_load --mix "$3" --tls 1.3 --rate "$rate" --connections "$((rate / 4 + 64))" --warmup 1s --duration "$((1 + seconds + patience))s"
    sleep 2.5
    fault "$2" "$4"
    sleep "$seconds"
    fault "$2" "${5:-}"
    local cleared heal
    cleared="$(milliseconds)"
    await_load
    heal="$(field "if .last_error_unix_ms == null then 0 else [0, .last_error_unix_ms - $cleared] | max end")"
    local text="$heal ms"
    # Errors until the very end: the last second of the load.
    if [ "$heal" -gt "$(((patience - 2) * 1000))" ]; then
        text="**not within $((patience - 2)) s**"
        sick=$((sick + 1))
    fi
    kill -0 "$server" 2>/dev/null || { text="**xksd ended**"; ended=$((ended + 1)); }
    local due errors
    due="$(calc %d "$rate * ($seconds + $heal / 1000)")"
    errors="$(field ".errors_by_name | to_entries | sort_by(-.value) | map(\"\(.value) \(.key) (\(.value * 1000 / $due | round / 10) %)\") | join(\", \") | if . == \"\" then \"none\" else . end")"
    row "$1" "$(field .wrong)" "$(field .answers.none)" "$(ms "$(field .answers.latest_us)")" "$errors" "$text"
    wrong=$((wrong + $(field .wrong)))
    silent=$((silent + $(field .answers.none)))
    latest="$(field "[$latest, .answers.latest_us] | max")"
    rows=$((rows + 1))
    say "  C_OpenSession $(calls "$2" C_OpenSession), C_Login $(calls "$2" C_Login), C_Initialize $(calls "$2" C_Initialize)"
    stop_server
}

calls() { jq ".calls.$2 // 0" "$dir/$1.stats.json"; }

begin demo
network='[wire]
fixed_us = 1000'
simulator xks <<<"$network"
simulator cloudhsm <<<"$network
[gcm]
iv = \"fill\""
step="$seconds"
seconds=3
alone="$(loop "$dir/xks.so" xks "$sessions")"
seconds="$step"
rate="$((alone / 2))"

echo "$rate requests/s, half of the bare loop's CDIV encrypts ($alone/s over $sessions sessions);"
echo "each fault for $seconds s."
echo "Shares are of what was due from the fault's beginning until it was healed."
echo
table "fault" "wrong answers" "without an answer" "latest answer, ms" "errors" "healed after"
both="encrypt=50,decrypt=50"
error() { echo "error = { call = $1, code = \"$2\"${3:+, $3} }"; }
try "none" xks "$both" ""
try "CKR_DEVICE_ERROR, 10 % of encryptions" xks "$both" "$(error '"C_Encrypt"' CKR_DEVICE_ERROR "probability = 0.1")"
try "CKR_DEVICE_ERROR, 10 % of decryptions" xks "$both" "$(error '"C_Decrypt"' CKR_DEVICE_ERROR "probability = 0.1")"
try "CKR_DEVICE_ERROR, all calls" xks "$both" "$(error '"*"' CKR_DEVICE_ERROR)"
try "CKR_SESSION_HANDLE_INVALID, 10 % of calls" xks "$both" "$(error '"*"' CKR_SESSION_HANDLE_INVALID "probability = 0.1")"
try "poisoned sessions, 10 % of encryptions" xks "$both" "$(error '"C_Encrypt"' CKR_DEVICE_ERROR "probability = 0.1, leaves_operation = true")"
try "throttled as CloudHSM does, 50 % of encryptions and decryptions" cloudhsm "$both" \
    "$(error '["C_Encrypt", "C_Decrypt"]' CKR_FUNCTION_FAILED "probability = 0.5")"
try "throttled as CloudHSM does, all encryptions" cloudhsm "$both" "$(error '"C_Encrypt"' CKR_FUNCTION_FAILED)"
try "stalls of 100 ms, 5 % of calls" xks "$both" 'stall = { call = "*", ms = 100, probability = 0.05 }'
try "stalls of 3 s, 1 % of calls" xks "$both" 'stall = { call = "*", ms = 3000, probability = 0.01 }'
try "hang: 1 % of C_Encrypt" xks "$both" 'hang = { call = "C_Encrypt", probability = 0.01 }'
try "hang: 10 % of calls" xks "$both" 'hang = { call = "*", probability = 0.1 }'
try "hang: every C_Encrypt" xks "$both" 'hang = "C_Encrypt"'
try "hang: all calls" xks "$both" 'hang = "*"'
try "all sessions lost" xks "$both" 'sessions_lost = 1'
try "token removed, and put back" xks "$both" 'token_removed = true'
try "corrupted ciphertext, 5 %" xks "$both" 'corrupt_ciphertext = 0.05'
# Encrypts alone: their plaintext is decrypted and compared. A wrong plaintext that an HSM hands out with CKR_OK to a decrypt, nobody but it can know.
try "wrong plaintext, 5 % (encrypts)" xks "encrypt=1" 'wrong_plaintext = 0.05'
try "token removed, C_Initialize fails" xks "$both" $'token_removed = true\ninitialize_fails = "CKR_DEVICE_ERROR"'
try "sessions lost, C_Login fails" xks "$both" $'sessions_lost = 1\nlogin_fails = "CKR_DEVICE_ERROR"'
slow="slow_start = { initialize_ms = 2000, calls = 100, ms = 50 }"
try "no session opens, then a slow start (2 s, 100 calls of 50 ms)" xks "$both" \
    "sessions_lost = 1
$slow
$(error '"C_OpenSession"' CKR_DEVICE_ERROR)" "$slow"
[ "$rows" -gt 0 ] || die "no fault has \"$pattern\" in its name"
echo
aim "wrong answers" "$wrong" '==' 0
aim "requests without an answer" "$silent" '==' 0
aim "latest answer, ms" "$(ms "$latest")" '<' 250
aim "faults that did not heal" "$sick" '==' 0
aim "ends of the process" "$ended" '==' 0
finish
