#!/usr/bin/env bash
# Changes of a running xksd: each setting is changed under 1,000 requests/s over SoftHSM; requests that failed
# Changes are functions that are called by their names.
# shellcheck disable=SC2317
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
seconds="${SECONDS_A_RUN:-6}"
rows=0 failed=0

# Last reload that changed something, as Unix time.
reloaded() { status | jq -r '[.config_last_reload.successful, .config_last_reload.success_timestamp_seconds] | @tsv'; }
reload() { "$bin/xksd" reload --config "$config" >&2; }

# A change by a file that is watched: in force when the last reload is a later one, and was taken.
by_watch() {
    local before now tenths
    before="$(reloaded)"
    "$@"
    for tenths in $(seq 100); do
        sleep 0.1
        now="$(reloaded)"
        [ "$now" = "$before" ] || break
        [ "$tenths" -lt 100 ] || die "nothing was reloaded after: $*"
    done
    [[ "$now" == true* ]] || die "refused after: $* ($(status | jq -c .config_last_reload))"
}
by_reload() { "$@"; reload; }
by_command() { "$bin/xksd" "$@" --config "$config" >&2; }

# A row: change WHAT HOW COMMAND...
change() {
    local what="$1" how="$2"
    shift 2
    say "$what"
    start_load --mix encrypt=50,decrypt=49,metadata=1 --tls 1.3 --rate 1000 --connections 16 --warmup 1s \
        --duration "${seconds}s" --reconnect-rate 5
    sleep 2
    "$@"
    await_load
    rows=$((rows + 1))
    failed=$((failed + $(field .errors)))
    row "$what" "$how" "$(field .right)" "$(errors_by_name)"
}

# ---- what is changed --------------------------------------------------------------------------------------------

# Without the authority's own certificate, which the client has.
certificate() {
    sed '/END CERTIFICATE/q' "$dir/demo/tls/chain.pem" >"$dir/chain.new"
    mv "$dir/chain.new" "$dir/demo/tls/chain.pem"
}
policy_file() {
    printf '@id("all")\npermit (principal, action, resource);\n// %s\n' "$1" >"$dir/demo/all.cedar.new"
    mv "$dir/demo/all.cedar.new" "$dir/demo/all.cedar"
}
policy() { policy_file first; printf '\n[keystore.policy]\nfiles = ["all.cedar"]\n' >>"$config"; }
quota() { printf '\n[keystore.quota]\nrequests_per_second = 100000\n' >>"$config"; }
log_output() { sed -i '0,/^\[server\]/s//&\nlog_output = ".\/xksd.log"/' "$config"; }
spans() { sed -i '0,/^\[server\]/s//&\notlp_endpoint = "http:\/\/127.0.0.1:1"/' "$config"; }
log_level() { sed -i '0,/^\[server\]/s//&\nlog_level = "warn"/' "$config"; }
budget() { sed -i '0,/^\[server\]/s//&\nrequest_budget_ms = 190/' "$config"; }
sessions() { sed -i "0,/^profile = .*/s//&\nsessions = $1/" "$config"; }
credential() {
    (umask 077; head -c 32 /dev/urandom | base64 >"$dir/demo/secrets/second")
    printf '\n[[keystore.credential]]\naccess_key_id = "%s"\nsecret_access_key = { file = "secrets/second" }\n' \
        AAAAAAAAAAAAAAAAAAAA >>"$config"
}
key() { printf '\n[[keystore.key]]\nid = "second"\nlabel = "demo"\n' >>"$config"; }
key_manager() {
    (umask 077; printf '{"keys":[\n{"label":"spare","key":"%s"}\n]}\n' "$(head -c 32 /dev/urandom | base64)" >"$dir/demo/spare.json")
    printf '\n[[key_manager]]\nname = "spare"\nkind = "local"\nkey_file = "spare.json"\n' >"$dir/spare.toml"
    awk -v file="$dir/spare.toml" '/^\[\[keystore\]\]/ && !done { while ((getline line < file) > 0) print line; print ""; done = 1 } { print }' \
        "$config" >"$config.new"
    mv "$config.new" "$config"
}
no_key_manager() {
    awk '/^\[\[key_manager\]\]/ { held = $0; next }
        held != "" { if ($0 == "name = \"spare\"") skip = 1; else print held; held = "" }
        skip && /^\[/ { skip = 0 }
        !skip' "$config" >"$config.new"
    mv "$config.new" "$config"
}
section() { printf '\n%s\n' "$1" >>"$config"; }
audit() {
    "$bin/xksd" audit key new --write-secret "$dir/audit-key" --origin xksd.example/changes >"$dir/verifier"
    section "[audit]
directory = \"$dir/trail\"
signing_key = { file = \"$dir/audit-key\" }
origin = \"xksd.example/changes\""
}
audit_setting() { sed -i "0,/^origin = .*/s//&\n$1/" "$config"; }
# The same process, which is enough for what is measured.
witness() {
    "$bin/xksd" audit key new --write-secret "$dir/witness-key" --witness xksd.example/witness >"$dir/witness"
    section "[witness]
listen = \"127.0.0.1:$witness_port\"
name = \"xksd.example/witness\"
signing_key = { file = \"$dir/witness-key\" }
verifier_keys = [\"$(cat "$dir/verifier")\"]"
}
audit_witness() {
    section "[[audit.witness]]
url = \"http://127.0.0.1:$witness_port\"
verifier_key = \"$(cat "$dir/witness")\""
}
pin() {
    pkcs11-tool --module "$softhsm" --token-label xks --login --pin 123456 --change-pin --new-pin 654321 >&2
    (umask 077; echo 654321 >"$dir/pin.new")
    mv "$dir/pin.new" "$dir/pin"
}

# ---- the rows ---------------------------------------------------------------------------------------------------

begin demo
token xks
configure --module "$softhsm" --token xks --pin-file "$dir/pin" --profile softhsm
sed -i "s|^\[server\]|&\nstate_directory = \"$dir/state\"\ncontrol_socket = \"$dir/control.sock\"|" "$config"
witness_port="$(free_port)"
serve

echo "1,000 requests a second over 16 connections, five of which are exchanged each second; runs of $seconds s."
echo
table "changed" "by" "right answers" "failed"
change "place of the log" "\`xksd reload\`" by_reload log_output
change "collector of spans, which is away" "\`xksd reload\`" by_reload spans
change "log level" "\`xksd reload\`" by_reload log_level
change "request budget" "\`xksd reload\`" by_reload budget
change "quota" "\`xksd reload\`" by_reload quota
change "policy added" "\`xksd reload\`" by_reload policy
change "policy file" "file" by_watch policy_file second
change "credential added" "\`xksd reload\`" by_reload credential
change "key added" "\`xksd reload\`" by_reload key
change "certificate chain" "file" by_watch certificate
change "key manager added" "\`xksd reload\`" by_reload key_manager
change "key manager removed" "\`xksd reload\`" by_reload no_key_manager
change "sessions of the HSM" "\`xksd reload\`" by_reload sessions 6
change "PIN of the HSM" "file" by_watch pin
change "audit trail added" "\`xksd reload\`" by_reload audit
change "durability of the audit trail" "\`xksd reload\`" by_reload audit_setting 'durability = "interval"'
change "witness of other trails added" "\`xksd reload\`" by_reload witness
change "witness of the audit trail added" "\`xksd reload\`" by_reload audit_witness
change "another key blocked" "\`xksd block\`" by_command block --key-store /demo --key second --reason scripts/performance
change "and unblocked" "\`xksd unblock\`" by_command unblock --key-store /demo --key second --reason scripts/performance
echo
note "sessions that are logged in stay so when the PIN changes: it is for the next login"
aim "failed requests over $rows changes" "$failed" '==' 0
verified=0
"$bin/xksd" audit verify --config "$config" >&2 || verified="$?"
aim "exit code of \`xksd audit verify\` with its witness" "$verified" '==' 0
finish
