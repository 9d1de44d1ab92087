#!/usr/bin/env bash
# xksd over real PKCS#11 modules: the tests of the four calls, a load of 200/s, and what can be done to each from outside meanwhile [MODULES]
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
wanted="${*:-softhsm p11-kit kryoptic craton-hsm wolfpkcs11 opencryptoki}"
seconds="${SECONDS_A_RUN:-4}"
rate=200
# After a fault is over: xksd initialises a lost library again each 5 s.
patience=12
wrong=0 silent=0 sick=0 failed=0

# Each sets: module, token, version, and may set profile and more (further lines of [[key_manager]]). Its token has the keys demo and foo.

keys_with_pkcs11_tool() {
    local label
    for label in demo foo; do
        pkcs11-tool --module "$module" --token-label "$token" --login --pin "$pin" --keygen --key-type AES:32 --label "$label" --sensitive \
            --usage-decrypt >/dev/null 2>&1 || die "$name: pkcs11-tool makes no key"
    done
}

new_token() {
    pkcs11-tool --module "$module" --init-token --slot-index 0 --label "$token" --so-pin "$so_pin" >/dev/null 2>&1
    pkcs11-tool --module "$module" --init-pin --login --login-type so --so-pin "$so_pin" --pin "$pin" >/dev/null 2>&1
}

prepare_softhsm() {
    module="$softhsm" profile=softhsm version="$(dpkg-query -W -f='${Version}' libsofthsm2)"
    export SOFTHSM2_CONF="$place/softhsm2.conf"
    mkdir -p "$place/tokens"
    printf 'directories.tokendir = %s\nlog.level = ERROR\n' "$place/tokens" >"$SOFTHSM2_CONF"
    softhsm2-util --init-token --free --label "$token" --so-pin "$so_pin" --pin "$pin" >/dev/null
    keys_with_pkcs11_tool
}

prepare_p11_kit() {
    prepare_softhsm
    p11_kit="$here/target/modules/p11-kit"
    module="$p11_kit/p11-kit-client.so" profile=generic
    version="0.25, over SoftHSM $(dpkg-query -W -f='${Version}' libsofthsm2)"
    export P11_KIT_SERVER_ADDRESS="unix:path=$place/sock"
    remote_start
}

remote_start() {
    rm -f "$place/sock"
    PATH="$p11_kit:$PATH" P11_KIT_PRIVATEDIR="$p11_kit" setsid "$p11_kit/p11-kit-server" --foreground --provider "$softhsm" --name "$place/sock" \
        "pkcs11:token=$token" >/dev/null 2>&1 &
    remote=$!
    children[$remote]=p11-kit
    until [ -S "$place/sock" ]; do sleep 0.05; done
}

# To the server and the process that it has for each client.
remote_signal() {
    kill "-$1" -- "-$remote"
    [ "$1" != KILL ] || wait "$remote" 2>/dev/null || true
}

prepare_kryoptic() {
    module="$here/target/modules/kryoptic/libkryoptic_pkcs11.so" profile=kryoptic version=1.5.4
    export KRYOPTIC_CONF="$place/token.sql"
    new_token
    keys_with_pkcs11_tool
}

prepare_craton() {
    module="$here/target/modules/craton-hsm/libcraton_hsm.so" profile=generic version=0.10.6
    # It is not signed, and its log is not ours.
    export CRATON_HSM_INTEGRITY_BYPASS=unsafe-dev-only RUST_LOG=off CRATON_HSM_CONFIG="$place/hsm.toml"
    printf '[token]\nlabel = "%s"\nstorage_path = "%s"\npersist_objects = true\nmax_rw_sessions = 64\n[audit]\nenabled = false\n' \
        "$token" "$place/store" >"$CRATON_HSM_CONFIG"
    new_token
    keys_with_pkcs11_tool
}

prepare_opencryptoki() {
    opencryptoki="$here/target/modules/opencryptoki"
    module="$opencryptoki/lib/opencryptoki/libopencryptoki.so" profile=generic version=3.27.0
    export LD_LIBRARY_PATH="$opencryptoki/lib/opencryptoki:$opencryptoki/lib/opencryptoki/stdll"
    # Four to eight characters, and those that were set first must be changed.
    local first_so_pin=87654321 first_pin=12345678
    pin=47114711 so_pin=76543210
    (umask 077; printf '%s' "$pin" >"$place/pin")
    rm -rf "$opencryptoki/var/lib/opencryptoki/swtok"
    mkdir -p "$opencryptoki/var/lib/opencryptoki/swtok/TOK_OBJ"
    chgrp -R nogroup "$opencryptoki/var/lib/opencryptoki/swtok"
    chmod -R 770 "$opencryptoki/var/lib/opencryptoki/swtok"
    daemon_start
    pkcs11-tool --module "$module" --init-token --slot-index 0 --label "$token" --so-pin "$first_so_pin" >/dev/null 2>&1
    "$opencryptoki/sbin/pkcsconf" -c 0 -P -S "$first_so_pin" -n "$so_pin" >/dev/null
    pkcs11-tool --module "$module" --token-label "$token" --init-pin --login --login-type so --so-pin "$so_pin" --pin "$first_pin" >/dev/null 2>&1
    "$opencryptoki/sbin/pkcsconf" -c 0 -p -U "$first_pin" -n "$pin" >/dev/null
    keys_with_pkcs11_tool
}

# It goes into the background by itself, and looks at each descriptor that there may be.
daemon_start() {
    (ulimit -n 1024; "$opencryptoki/sbin/pkcsslotd" >/dev/null 2>&1)
    until [ -S /run/opencryptoki/pkcsslotd.socket ]; do sleep 0.05; done
    daemon="$(cat /run/opencryptoki/pkcsslotd.pid)"
    children[$daemon]=pkcsslotd
}

daemon_kill() {
    kill -KILL "$daemon"
    unset "children[$daemon]"
    rm -f /run/opencryptoki/pkcsslotd.socket
}

prepare_wolfpkcs11() {
    module="$here/target/modules/wolfpkcs11/libwolfpkcs11.so" profile=generic version=2.1.0
    export WOLFPKCS11_TOKEN_PATH="$place/store"
    mkdir "$WOLFPKCS11_TOKEN_PATH"
    new_token
    keys_with_pkcs11_tool
}

# Faults, by name: what is done, and what ends it.
faults_of() {
    case "$1" in
    softhsm) echo "token away" ;;
    opencryptoki) echo "daemon killed" ;;
    p11-kit) echo "server killed,server hung,server restarted" ;;
    *) echo "" ;;
    esac
}

begin_fault() {
    case "$1" in
    "token away") mv "$place/tokens" "$place/elsewhere" ;;
    "server killed") remote_signal KILL ;;
    "daemon killed") daemon_kill ;;
    "server hung") remote_signal STOP ;;
    "server restarted") remote_signal KILL; remote_start ;;
    esac
}

end_fault() {
    case "$1" in
    "token away") mv "$place/elsewhere" "$place/tokens" ;;
    "server killed") remote_start ;;
    "daemon killed") daemon_start ;;
    "server hung") remote_signal CONT ;;
    esac
}

# The server over the module.
configure_module() {
    configure --module "$module" --token "$token" --pin-file "$place/pin" --profile "$profile"
    sed -i "s/^profile = .*/&\nsessions = 8/" "$config"
}

# Gives the errors of a load, and sets heal.
load_with() {
    start_load --mix encrypt=50,decrypt=50 --tls 1.3 --rate "$rate" --connections "$((rate / 4 + 32))" --warmup 1s --duration "$1s"
    local cleared=0
    if [ -n "$2" ]; then
        sleep 2.5
        begin_fault "$2"
        sleep "$seconds"
        end_fault "$2"
        cleared="$(milliseconds)"
    fi
    await_load
    heal="$(field "if .last_error_unix_ms == null then 0 else [0, .last_error_unix_ms - $cleared] | max end")"
    wrong=$((wrong + $(field .wrong))) silent=$((silent + $(field .answers.none)))
}

begin demo
for name in $wanted; do
    case "$name" in softhsm) ;; *) scripts/modules "$name" >/dev/null ;; esac
done
cargo test --quiet --locked --no-run --test e2e 2>/dev/null

table "module" "version" "four calls" "load of $rate/s: errors, p99 ms" "fault for $seconds s under it" "errors" "wrong, silent" "serves again after"
for name in $wanted; do
    say "module: $name"
    place="$dir/$name" token=xks pin=us-4711-Pin so_pin=so-4711-Pin profile=generic
    mkdir "$place"
    (umask 077; printf '%s' "$pin" >"$place/pin")
    case "$name" in
    softhsm) prepare_softhsm ;;
    p11-kit) prepare_p11_kit ;;
    kryoptic) prepare_kryoptic ;;
    craton-hsm) prepare_craton ;;
    wolfpkcs11) prepare_wolfpkcs11 ;;
    opencryptoki) prepare_opencryptoki ;;
    *) die "unknown module: $name" ;;
    esac
    (umask 077; printf 'module = "%s"\ntoken = "%s"\npin = { file = "%s" }\nprofile = "%s"\nsessions = 4\n' \
        "$module" "$token" "$place/pin" "$profile" >"$place/key_manager.toml")
    suite=passed
    XKSD_TEST_KEY_MANAGER="$place/key_manager.toml" cargo test --quiet --locked --test e2e -- --ignored --exact any_module::the_four_calls \
        >"$dir/suite.txt" 2>&1 || { suite="**failed**"; failed=$((failed + 1)); tail -20 "$dir/suite.txt" >&2; }

    configure_module
    serve
    load_with "$((2 * seconds))" ""
    quiet="$(errors_by_name), $(ms "$(field .latency.p99)")"
    faults="$(faults_of "$name")"
    if [ -z "$faults" ]; then
        row "$name" "$version" "$suite" "$quiet" "none from outside" "" "$(field .wrong), $(field .answers.none)" ""
    fi
    IFS=, read -ra each <<<"$faults"
    for fault in "${each[@]}"; do
        say "  $fault"
        load_with "$((3 + seconds + patience))" "$fault"
        healed="$heal ms"
        [ "$heal" -le "$(((patience - 2) * 1000))" ] || { healed="**not**"; sick=$((sick + 1)); }
        kill -0 "$server" 2>/dev/null || die "xksd ended: $(tail -3 "$dir/log")"
        row "$name" "$version" "$suite" "$quiet" "$fault" "$(errors_by_name)" "$(field .wrong), $(field .answers.none)" "$healed"
    done
    stop_server
    [ "$name" != opencryptoki ] || end "$daemon"
done
echo
aim "wrong answers" "$wrong" '==' 0
aim "requests without an answer" "$silent" '==' 0
aim "modules whose tests failed" "$failed" '==' 0
aim "faults that did not heal without a restart of xksd" "$sick" '==' 0
finish
