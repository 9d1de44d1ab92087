# shellcheck shell=bash
# What the scenarios share: programs, simulated HSMs, servers, loads, tables and aims. To be sourced.
#
# A scenario calls `begin`, measures, prints a Markdown table to standard output (progress goes to standard error), says with `aim` what had to
# hold, and ends with `finish`. Whatever ends it, its processes and files go with it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

here="$PWD"
bin="${BIN:-}"
seconds="${SECONDS_A_RUN:-8}"
dir=""
declare -A children=()
missed=0

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# ---- beginning and end ------------------------------------------------------------------------------------------

# Installs, builds, and makes the directory for everything that follows. Arguments: what scripts/install-deps is asked for.
begin() {
    local group
    for group in "$@"; do scripts/install-deps "$group"; done
    if [ -z "$bin" ]; then
        cargo build --release --locked --quiet --bin xksd
        cargo build --release --locked --quiet -p xksd-load -p hsm-sim
        bin="$here/target/release"
    fi
    dir="$(mktemp -d)"
    trap clean_up EXIT
    trap 'exit 130' INT TERM HUP PIPE
    softhsm="$(dpkg -L libsofthsm2 | grep -m1 '/libsofthsm2.so$')"
}

clean_up() {
    local pid
    # A hung HSM lets go of its callers when the fault is over.
    rm -f "$dir"/*.control.toml
    for pid in "${!children[@]}"; do end "$pid"; done
    rm -rf "$dir"
}

# Ends a process of ours, by force if it must be.
end() {
    local tenths
    unset "children[$1]"
    kill "$1" 2>/dev/null || return 0
    for tenths in $(seq 120); do
        kill -0 "$1" 2>/dev/null || break
        [ "$tenths" -lt 120 ] || kill -KILL "$1" 2>/dev/null || true
        sleep 0.1
    done
    wait "$1" 2>/dev/null || true
}

finish() { exit "$missed"; }

# ---- figures ----------------------------------------------------------------------------------------------------

# An arithmetic expression, with a format: calc %.2f '1 / 3'
# A figure that is not there (null in a report) makes it nan, and no aim holds with that.
calc() { if [[ "$2" =~ [[:alpha:]] ]]; then echo nan; else awk "BEGIN { printf \"$1\", $2 }"; fi; }
# The median of numbers, a line each.
middle() { sort -n | awk '{ figure[NR] = $1 } END { print (figure[int((NR + 1) / 2)] + figure[int(NR / 2) + 1]) / 2 }'; }
# How often servers alternate, $ROUNDS or the default: set_rounds DEFAULT
set_rounds() {
    rounds="${ROUNDS:-$1}"
    [[ "$rounds" =~ ^[1-9][0-9]*$ ]] || die "ROUNDS=$rounds: a number from 1 on"
}
in_rounds() { if [ "$rounds" = 1 ]; then echo "one round"; else echo "medians of $rounds rounds"; fi; }
milliseconds() { echo "$((${EPOCHREALTIME/[.,]/} / 1000))"; }
# Of the latest report, or of the file given second: field .latency.p99
field() { jq -r "$1" "${2:-$dir/report.json}"; }
# µs as ms: ms 1234 → 1.2
ms() { calc %.1f "$1 / 1000"; }

table() {
    row "$@"
    printf '|%s\n' "$(printf ' --- |%.0s' "$@")"
}
row() { printf '|'; printf ' %s |' "$@"; printf '\n'; }
# A figure that has no aim, or what the table does not say.
note() { printf -- '- %s\n' "$*"; }

# What had to hold: aim "goodput over capacity" 0.93 '>=' 0.90
aim() {
    local verdict="NOT HELD"
    if [[ "$2" =~ ^[-0-9.]+$ ]] && awk "BEGIN { exit !($2 $3 $4) }"; then verdict=held; else missed=1; fi
    note "$1: $2 (aim: $3 $4): $verdict"
}

# A row for each call of the latest report.
table_of_calls() {
    table "call" "answers" "p50 ms" "p99 ms" "p99.9 ms" "max ms"
    field '([{call: "all", latency}] + .calls)[] | [.call, .latency.count, .latency.p50, .latency.p99, .latency.p999, .latency.max] | @tsv' |
        while IFS=$'\t' read -r call count p50 p99 p999 max; do
            [ "$count" = 0 ] || row "$call" "$count" "$(ms "$p50")" "$(ms "$p99")" "$(ms "$p999")" "$(ms "$max")"
        done
}

# Keeps the latest report as FILE.html, and FILE.json beside it: keep_report FILE.html; nothing where
# it is empty. The command stands in it, without the folder of this run.
keep_report() {
    [ -n "$1" ] || return 0
    sed "s#$dir#DIR#g" "$dir/report.html" >"$1"
    sed "s#$dir#DIR#g" "$dir/report.json" >"${1%.html}.json"
}

# "3 ThrottlingException, 1 timeout" of the latest report.
errors_by_name() { field '.errors_by_name | to_entries | sort_by(-.value) | map("\(.value) \(.key)") | join(", ") | if . == "" then "none" else . end'; }

# ---- HSMs -------------------------------------------------------------------------------------------------------

# A SoftHSM token with the AES-256 key "demo", which is the same in every token: token LABEL
# (text: of some keys with any byte softhsm2-util makes one that C_EncryptInit refuses)
token() {
    mkdir -p "$dir/tokens"
    export SOFTHSM2_CONF="$dir/softhsm2.conf"
    if [ ! -f "$dir/pin" ]; then
        printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$dir/tokens" >"$SOFTHSM2_CONF"
        (umask 077; echo 123456 >"$dir/pin"; head -c 16 /dev/urandom | od -An -vtx1 | tr -d " \n" >"$dir/key")
    fi
    softhsm2-util --init-token --free --label "$1" --so-pin 123456 --pin 123456 >/dev/null
    softhsm2-util --import "$dir/key" --aes --token "$1" --label demo --id 01 --pin 123456 >/dev/null
}

# An hsm-sim in front of the token of the same name: simulator LABEL <<its tables
simulator() {
    token "$1"
    cp "$bin/libhsm_sim.so" "$dir/$1.so"
    cp "$softhsm" "$dir/$1.softhsm.so"
    {
        printf 'module = "%s"\ncontrol = "%s"\nstats = "%s"\nsessions_max = 1024\n' \
            "$dir/$1.softhsm.so" "$dir/$1.control.toml" "$dir/$1.stats.json"
        cat
    } >"$dir/$1.so.toml"
}

# What is wrong with a simulated HSM from now on, all at once; nothing when empty: fault LABEL TEXT
fault() {
    printf '%s\n' "$2" >"$dir/$1.control.new"
    mv "$dir/$1.control.new" "$dir/$1.control.toml"
}

# CDIV encrypts a second of a bare loop: loop MODULE LABEL SESSIONS
loop() {
    say "bare loop: $3 sessions for $seconds s"
    HSM_LOOP_PIN=123456 "$bin/hsm-loop" --module "$1" --token "$2" --key demo --sessions "$3" --seconds "$seconds" |
        jq '.operations_per_second | floor'
}

# ---- xksd -------------------------------------------------------------------------------------------------------

# A port where nobody listens, below those that the kernel gives to clients.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# Files of a new xksd, with its own ports; arguments go to `xksd demo`. The certificate stays the same.
configure() {
    xks="127.0.0.1:$(free_port)"
    admin="127.0.0.1:$(free_port)"
    config="$dir/demo/xksd.toml"
    rm -f "$config"
    "$bin/xksd" demo --files-only --dir "$dir/demo" --listen "$xks" --admin "$admin" "$@" >/dev/null
    # There is no load balancer to wait for at the end.
    sed -i 's/^\[server\]/&\nshutdown_delay_ms = 0/' "$config"
}

# The same for a simulated HSM: configure_simulator LABEL SESSIONS
configure_simulator() {
    configure --module "$dir/$1.so" --token "$1" --pin-file "$dir/pin" --profile generic
    sed -i "s/^profile = .*/&\nsessions = $2/" "$config"
}

# Starts it and waits until all its sessions are open.
serve() {
    "$bin/xksd" serve --config "$config" 2>"$dir/log" &
    server=$!
    children[$server]=xksd
    local tenths
    for tenths in $(seq 300); do
        sleep 0.1
        kill -0 "$server" 2>/dev/null || die "xksd ended: $(tail -3 "$dir/log")"
        status 2>/dev/null | jq -e '.ready and (.key_managers | all(.sessions.open == .sessions.configured))' >/dev/null && return
    done
    die "xksd is not ready: $(tail -3 "$dir/log")"
}

status() { curl -sf "http://$admin/status"; }

stop_server() { end "$server"; }

# Resident memory of the server, KiB.
memory() { awk '/^VmRSS/ { print $2 }' "/proc/$server/status"; }

# ---- nginx ------------------------------------------------------------------------------------------------------

# nginx with xksd's certificate: start_nginx ADDRESS_OF_ONE_BLOCK CONNECTIONS_A_WORKER SERVER_BLOCKS…
start_nginx() {
    # Its own: as root nginx gives what it is told to use to another user.
    mkdir -p "$dir/nginx"
    cat >"$dir/nginx.conf" <<T
daemon off;
worker_processes auto;
worker_cpu_affinity auto;
pid $dir/nginx.pid;
error_log $dir/nginx.error.log;
events { worker_connections $2; }
http {
    client_body_temp_path $dir/nginx; proxy_temp_path $dir/nginx; fastcgi_temp_path $dir/nginx;
    uwsgi_temp_path $dir/nginx; scgi_temp_path $dir/nginx;
    ssl_certificate $dir/demo/tls/chain.pem;
    ssl_certificate_key $dir/demo/tls/key.pem;
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256;
    keepalive_requests 1000000000;
    keepalive_timeout 400s;
    ${@:3}
}
T
    nginx -c "$dir/nginx.conf" -e "$dir/nginx.error.log" 2>"$dir/nginx.log" &
    master=$!
    children[$master]=nginx
    for _ in $(seq 50); do
        sleep 0.1
        curl -s --cacert "$dir/demo/ca.pem" -o "$dir/nginx.answer" "https://$1/" && return
    done
    die "nginx does not serve: $(tail -3 "$dir/nginx.error.log")"
}

# ---- load -------------------------------------------------------------------------------------------------------

# Starts a load that leaves its figures in $dir/report.json; arguments go to `xksd-load run`.
start_load() {
    rm -f "$dir/report.json"
    "$bin/xksd-load" run --config "$config" --json "$dir/report.json" "$@" >"$dir/load.txt" 2>"$dir/load.err" &
    client=$!
    children[$client]=xksd-load
}

# Waits for its end. Errors are for the scenario to judge; a load that could not be run ends it.
await_load() {
    local code=0
    wait "$client" || code=$?
    unset "children[$client]"
    { [ "$code" -le 1 ] && [ -s "$dir/report.json" ]; } || die "xksd-load: exit code $code: $(head -3 "$dir/load.err")"
}

# CDIV encrypts for $seconds over TLS 1.3, unless the arguments say otherwise.
load() {
    say "load: $*"
    start_load --mix encrypt=1 --tls 1.3 --duration "${seconds}s" --warmup 1s "$@"
    await_load
}
