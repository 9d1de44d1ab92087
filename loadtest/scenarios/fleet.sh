#!/usr/bin/env bash
# Fault table of a fleet: three etcd, three instances behind HAProxy in network namespaces, under load; needs root [PATTERN: rows whose name has it]
# Rows are functions that are called by their names.
# shellcheck disable=SC2317
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
pattern="${1:-}"
rate="${RATE:-200}"
faketime="/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1"

killed=0 wrong=0 failed_reachable=0 slowest=0 slowest_after=0 odd=0 rows=0

# ---- the net: everybody on "back" (etcd), instances and the balancer on "front" -----------------------------------

spaces="xf-hub xf-x1 xf-x2 xf-x3 xf-e1 xf-e2 xf-e3"

# attach SPACE NET ADDRESS
attach() {
    ip -n xf-hub link add "$1-$2" type veth peer name "$2" netns "$1"
    ip -n xf-hub link set "$1-$2" master "$2" up
    ip -n "$1" address add "$3/24" dev "$2"
    ip -n "$1" link set "$2" up
}

build_net() {
    local space net i
    for space in $spaces; do
        ip netns add "$space"
        ip -n "$space" link set lo up
    done
    for net in front back; do ip -n xf-hub link add "$net" type bridge; done
    ip -n xf-hub address add 10.77.0.254/24 dev front
    for net in front back; do ip -n xf-hub link set "$net" up; done
    for i in 1 2 3; do
        attach "xf-x$i" front "10.77.0.$i"
        attach "xf-x$i" back "10.77.1.$i"
        attach "xf-e$i" back "10.77.1.1$i"
    done
}

take_down_net() {
    local space
    for space in $spaces; do ip netns del "$space" 2>/dev/null || true; done
}

inside() { exec ip netns exec "$@"; }

# ---- who is in it -------------------------------------------------------------------------------------------------

declare -A etcd=() xksd=()

start_etcd() {
    local peers="e1=http://10.77.1.11:2380,e2=http://10.77.1.12:2380,e3=http://10.77.1.13:2380"
    inside "xf-e$1" etcd --name "e$1" --data-dir "$dir/etcd$1" --initial-cluster "$peers" \
        --listen-client-urls "http://10.77.1.1$1:2379,http://127.0.0.1:2379" --advertise-client-urls "http://10.77.1.1$1:2379" \
        --listen-peer-urls "http://10.77.1.1$1:2380" --initial-advertise-peer-urls "http://10.77.1.1$1:2380" \
        >"$dir/etcd$1.log" 2>&1 &
    etcd[$1]=$!
    children[${etcd[$1]}]=etcd
}

kill_now() {
    unset "children[$1]"
    kill -KILL "$1"
    wait "$1" 2>/dev/null || true
}

configure_instances() {
    local i
    "$bin/xksd" demo --files-only --dir "$dir/demo" --listen 127.0.0.1:8443 --admin 127.0.0.1:9180 >/dev/null
    config="$dir/demo/xksd.toml"
    "$bin/xksd" fleet secret new --write-secret "$dir/demo/secrets/fleet" 2>/dev/null
    for i in 1 2 3; do
        cp -a "$dir/demo" "$dir/x$i"
        sed -i -e "s/127.0.0.1:8443/10.77.0.$i:8443/; s/127.0.0.1:9180/10.77.0.$i:9180/" \
            -e 's/^\[server\]/&\ninstances = 3/' "$dir/x$i/xksd.toml"
        cat >>"$dir/x$i/xksd.toml" <<T
# What is blocked, beside what the load asks for.
[[keystore]]
path_prefix = "/cut"
key_manager = ["demo"]
[[keystore.credential]]
access_key_id = "AAAAAAAAAAAAAAAAAAAA"
secret_access_key = { file = "secrets/key-store-1" }
[[keystore.key]]
id = "demo"
[fleet]
name = "x$i"
secret = { file = "secrets/fleet" }
etcd = { endpoints = ["http://10.77.1.11:2379", "http://10.77.1.12:2379", "http://10.77.1.13:2379"], prefix = "/xksd/demo" }
T
    done
}

# start_instance N [VARIABLE=VALUE…]
start_instance() {
    inside "xf-x$1" env "${@:2}" "$bin/xksd" serve --config "$dir/x$1/xksd.toml" 2>>"$dir/x$1.log" &
    xksd[$1]=$!
    children[${xksd[$1]}]=xksd
}

ready() { (inside xf-hub curl -sf -m 1 "http://10.77.0.$1:9180/readyz") >/dev/null 2>&1; }

await_ready() {
    local i tenths
    for i in "$@"; do
        for tenths in $(seq 300); do
            ! ready "$i" || break
            [ "$tenths" -lt 300 ] || die "instance $i is not ready: $(tail -3 "$dir/x$i.log")"
            sleep 0.1
        done
    done
}

start_balancer() {
    cat >"$dir/haproxy.cfg" <<'T'
defaults
    mode tcp
    timeout connect 1s
    timeout client 450s
    timeout server 450s
frontend xks
    bind 127.0.0.1:8443
    default_backend xksd
backend xksd
    balance leastconn
    option httpchk GET /readyz
    option redispatch
    retries 2
    default-server inter 500ms fall 2 rise 2
    server x1 10.77.0.1:8443 check port 9180
    server x2 10.77.0.2:8443 check port 9180
    server x3 10.77.0.3:8443 check port 9180
T
    inside xf-hub haproxy -db -f "$dir/haproxy.cfg" 2>"$dir/haproxy.log" &
    children[$!]=haproxy
}

fleet() { "$bin/xksd" fleet "$1" --config "$dir/x$2/xksd.toml" "${@:3}"; }
all_registered() { fleet status "$1" --json 2>/dev/null | jq -e '.connected and ([.members[] | select(.present)] | length == 3)' >/dev/null; }

await_fleet() {
    local tenths i
    for i in 1 2 3; do
        for tenths in $(seq 300); do
            ! all_registered "$i" || break
            [ "$tenths" -lt 300 ] || die "instance $i does not see the fleet: $(tail -3 "$dir/x$i.log")"
            sleep 0.1
        done
    done
}

# ---- a row --------------------------------------------------------------------------------------------------------

# Writes to FILE when /cut is blocked at instance N, or "never": watch N FILE SECONDS
watch() {
    local until
    until="$(($(milliseconds) + $3 * 1000))"
    while [ "$(milliseconds)" -lt "$until" ]; do
        if curl -s -m 1 "http://10.77.0.$1:9180/metrics" | grep -q '^xksd_blocks [1-9]'; then
            milliseconds >"$2"
            return
        fi
        sleep 0.02
    done
    echo never >"$2"
}

# How long after $1, in ms, each of the instances after it had the block; the longest
latest_of() {
    local from="$1" i at longest=0
    shift
    for i in "$@"; do
        at="$(cat "$dir/seen$i")"
        [ "$at" != never ] || { echo never; return; }
        [ "$((at - from))" -le "$longest" ] || longest="$((at - from))"
    done
    echo "$longest"
}

nothing() { :; }

# try NAME REACHABLE CUT_OFF CONFIRMED FAULT HEAL SECONDS: REACHABLE and CUT_OFF are instances, as "1 2" and "3"; CONFIRMED says
# whether the command can end with 0; the load goes on for SECONDS, and the block comes two seconds after the fault.
try() {
    [[ "$1" == *"$pattern"* ]] || return 0
    local name="$1" reachable="$2" cut_off="$3" confirmed="$4" code=0 i began healed watchers=()
    say "fault: $name"
    await_fleet
    (inside xf-hub "$bin/xksd-load" run --config "$config" --json "$dir/report.json" --mix encrypt=50,decrypt=50 --rate "$rate" \
        --connections 24 --warmup 1s --duration "$7s" --balancer HAProxy \
        --admin http://10.77.0.1:9180 --admin http://10.77.0.2:9180 --admin http://10.77.0.3:9180) >"$dir/load.txt" 2>"$dir/load.err" &
    client=$!
    children[$client]="xksd-load"
    sleep 3
    "$5"
    sleep 2
    for i in $reachable $cut_off; do
        rm -f "$dir/seen$i"
        (export -f watch milliseconds; inside xf-hub bash -c "watch $i $dir/seen$i $(($7 + 10))") &
        watchers+=($!)
    done
    began="$(milliseconds)"
    "$bin/xksd" block --fleet --config "$dir/x1/xksd.toml" --key-store /cut --reason "$name" >"$dir/said" 2>&1 || code=$?
    local said
    said="$({ grep -o 'NOT CONFIRMED: x[0-9]\|on this instance only' "$dir/said" || true; } | sed 's/NOT CONFIRMED: //' | sort -u | paste -sd, | sed 's/,/, /g')"
    sleep 1
    healed="$(milliseconds)"
    "$6"
    wait "${watchers[@]}" || true
    await_load
    local at after="" failed note=""
    # shellcheck disable=SC2086 # a list of words is meant
    at="$(latest_of "$began" $reachable)"
    # shellcheck disable=SC2086 # a list of words is meant
    [ -z "$cut_off" ] || after="$(latest_of "$healed" $cut_off)"
    failed="$(field .errors)"
    row "$name" "$(field .offered)" "$(field .wrong)" "$failed" "$(errors_by_name)" "${at} ms" "${said:-all confirmed}" "${after:+$after ms}$note"
    wrong=$((wrong + $(field .wrong)))
    if [ "$5" = fault_kill ]; then killed="$failed"; else failed_reachable=$((failed_reachable + failed)); fi
    [ "$at" != never ] && [ "$at" -le "$slowest" ] || slowest="$at"
    [ -z "$after" ] || { [ "$after" != never ] && [ "$after" -le "$slowest_after" ]; } || slowest_after="$after"
    [ "$([ "$code" = 0 ] && echo yes || echo no)" = "$confirmed" ] || odd=$((odd + 1))
    rows=$((rows + 1))
    await_ready 1 2 3
    await_fleet
    for i in 1 2 3; do
        "$bin/xksd" unblock --config "$dir/x$i/xksd.toml" --key-store /cut --reason "over" >/dev/null 2>&1 || true
    done
    "$bin/xksd" unblock --fleet --config "$dir/x1/xksd.toml" --key-store /cut --reason "over" >/dev/null 2>&1 || true
}

leader() {
    local i
    for i in 1 2 3; do
        if (inside "xf-e$i" curl -s -d '{}' http://127.0.0.1:2379/v3/maintenance/status) |
            jq -e '.leader == .header.member_id' >/dev/null; then echo "$i"; return; fi
    done
    echo 1
}

fault_member() { kill_now "${etcd[1]}"; }
heal_member() { start_etcd 1; }
fault_leader() { led="$(leader)"; kill_now "${etcd[$led]}"; }
heal_leader() { start_etcd "$led"; }
fault_quorum() { kill_now "${etcd[1]}"; kill_now "${etcd[2]}"; }
# A block that was made on one instance only is made again for all when etcd is back, as the command says.
heal_quorum() {
    start_etcd 1
    start_etcd 2
    await_fleet
    healed="$(milliseconds)"
    "$bin/xksd" block --fleet --config "$dir/x1/xksd.toml" --key-store /cut --reason again >/dev/null 2>&1
}
fault_cut() { ip -n xf-x3 link set back down; }
heal_cut() { ip -n xf-x3 link set back up; }
fault_cut_long() { fault_cut; sleep 12; }
fault_kill() { kill_now "${xksd[3]}"; }
heal_kill() { start_instance 3; }
fault_clock() { end "${xksd[3]}"; start_instance 3 "LD_PRELOAD=$faketime" FAKETIME=+120s DONT_FAKE_MONOTONIC=1; await_ready 3; await_fleet; }
heal_clock() { end "${xksd[3]}"; start_instance 3; await_ready 3; }
upgrade() {
    local i
    for i in 3 2; do
        end "${xksd[$i]}"
        start_instance "$i"
        await_ready "$i"
        sleep 2
    done
    await_fleet
}

[ "$(id -u)" = 0 ] || die "network namespaces need root"
begin demo haproxy etcd
trap 'clean_up; take_down_net' EXIT
take_down_net
build_net
configure_instances
for i in 1 2 3; do start_etcd "$i"; done
for i in 1 2 3; do start_instance "$i"; done
await_ready 1 2 3
start_balancer
sleep 2

echo "$rate requests/s through HAProxy over 24 connections. Two seconds after each fault, instance x1 is"
echo "asked for \`xksd block --fleet\`; a second after that ends, the fault is healed."
echo
table "fault" "requests" "wrong" "failed" "errors" "in force where etcd is reached" "named by the command" "in force on the others, after healing"
try "none" "1 2 3" "" yes nothing nothing 10
try "one member of etcd killed" "1 2 3" "" yes fault_member heal_member 12
try "the leader of etcd killed" "1 2 3" "" yes fault_leader heal_leader 14
try "two of three members killed: no quorum" "1" "2 3" no fault_quorum heal_quorum 25
try "x3 cut off from etcd for 2 s" "1 2" "3" no fault_cut heal_cut 22
try "x3 cut off from etcd for 14 s" "1 2" "3" no fault_cut_long heal_cut 32
try "x3 killed, and started again" "1 2" "3" no fault_kill heal_kill 20
try "clock of x3 two minutes ahead" "1 2 3" "" yes fault_clock heal_clock 32
try "x3 and x2 stopped and started, one after the other" "1 2 3" "" yes upgrade nothing 40
[ "$rows" -gt 0 ] || die "no fault has \"$pattern\" in its name"
echo
aim "wrong answers" "$wrong" '==' 0
aim "failed requests, but for those under way to an instance that is killed" "$failed_reachable" '==' 0
note "under way to the killed instance, or sent before the balancer noticed: $killed; KMS tries again."
aim "latest block where etcd is reached, ms" "$slowest" '<' 1000
aim "latest block after healing, ms" "$slowest_after" '<' 10000
aim "commands that named others than those cut off" "$odd" '==' 0
finish
