#!/usr/bin/env bash
# A key that the module refuses (SoftHSM, CKA_ALLOWED_MECHANISMS without AES-GCM) asked for 30 to 250 times a second: errors of a healthy key beside it [RATES]
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
rates="${1:-30 60 150 250}"
healthy=50
errors=0

begin demo
token xks
# The same kind of key, for AES-CBC alone.
pkcs11-tool --module "$softhsm" --token-label xks --login --pin 123456 --keygen --key-type AES:32 --label bad --id 02 \
    --usage-decrypt --allowed-mechanisms AES-CBC >/dev/null 2>&1
configure --module "$softhsm" --token xks --pin-file "$dir/pin" --profile softhsm
printf '\n[[keystore.key]]\nid = "bad"\n' >>"$config"

echo "$healthy requests/s (encrypts and decrypts) for the healthy key, for $seconds s beside each rate."
echo
table "requests/s for the bad key" "its answers" "requests for the healthy key" "errors" "p99 ms" "sessions reopened"
for rate in $rates; do
    say "$rate requests/s for the bad key"
    # Its first request fails, which would end the load without --unverified. A new server for each rate: each learns of the key by itself.
    serve
    "$bin/xksd-load" run --config "$config" --key bad --unverified --mix encrypt=1 --tls 1.3 --rate "$rate" --connections 64 --warmup 1s \
        --duration "${seconds}s" --json "$dir/bad.json" >"$dir/bad.txt" 2>&1 &
    bad=$!
    children[$bad]=xksd-load
    start_load --mix encrypt=50,decrypt=50 --tls 1.3 --rate "$healthy" --connections 16 --warmup 1s --duration "${seconds}s"
    await_load
    # Its answers are errors, so its exit code is 1.
    wait "$bad" || true
    unset "children[$bad]"
    reopened="$(status | jq '.key_managers[0].sessions.reopened')"
    row "$rate" "$(jq -r '.errors_by_name | to_entries | sort_by(-.value) | map("\(.value) \(.key)") | join(", ")' "$dir/bad.json")" \
        "$(field .offered)" "$(errors_by_name)" "$(ms "$(field .latency.p99)")" "$reopened"
    errors=$((errors + $(field .errors)))
    stop_server
done
echo
aim "errors of the healthy key" "$errors" '==' 0
finish
