#!/usr/bin/env bash
# nginx with a static body of the same size as xksd's answer: throughput, latency of one connection, handshakes, alternating with xksd (keys in a file)
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
seconds="${SECONDS_A_RUN:-5}"
set_rounds 3

# The body of one encrypt with integrity value, as KMS would get it.
answer_of_xksd() {
    local id
    id="$(sed -n 's/^access_key_id = "\(.*\)"/\1/p' "$config")"
    printf 'user = "%s:%s"\n' "$id" "$(cat "$dir/demo/secrets/key-store-1")" |
        curl -sf --config - --cacert "$dir/demo/ca.pem" --aws-sigv4 aws:amz:us-east-1:kms-xks-proxy -H 'Content-Type: application/json' -d '{
            "requestMetadata": {"awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice", "kmsOperation": "Encrypt", "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
                "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"},
            "plaintext": "'"$(head -c 32 /dev/zero | base64)"'", "encryptionAlgorithm": "AES_GCM", "ciphertextDataIntegrityValueAlgorithm": "SHA_256"}' \
            "https://$xks/demo/kms/xks/v1/keys/demo/encrypt"
}

serve_nginx() {
    quiet="127.0.0.1:$(free_port)"
    logging="127.0.0.1:$(free_port)"
    server_block() {
        printf 'server { listen %s ssl reuseport backlog=4096; access_log %s; location / { default_type application/json; return 200 '"'%s'"'; } }\n' "$@"
    }
    start_nginx "$logging" 4096 "$(server_block "$quiet" off "$body")" \
        "$(server_block "$logging" "$dir/nginx.access.log combined buffer=64k flush=1s" "$body")"
    curl -s --cacert "$dir/demo/ca.pem" -d '{}' "https://$logging/" | cmp -s - <(printf %s "$body") || die "nginx answers something else"
}

# CPU time of processes so far, µs: fields 14 and 15 of their stat, in ticks.
cpu_us() {
    local pid ticks=0
    for pid in "$@"; do ticks=$((ticks + $(awk '{ print $14 + $15 }' "/proc/$pid/stat"))); done
    echo $((ticks * 1000000 / $(getconf CLK_TCK)))
}

# against WHO ARGUMENTS: a load that leaves throughput, p50 and CPU a request in $dir/WHO.figures, a line each time.
against() {
    local who="$1" address="$xks" pids=("$server") before
    shift
    [ "$who" = xksd ] || mapfile -d ' ' -t pids <"/proc/$master/task/$master/children"
    [ "$who" != nginx ] || address="$quiet"
    [ "$who" != nginx-logging ] || address="$logging"
    before="$(cpu_us "${pids[@]}")"
    say "$who: $*"
    # No warm-up: the CPU time of the servers is taken around the whole run.
    start_load --mix encrypt=1 --tls 1.3 --unverified --connect "$address" --pid "${pids[0]}" --warmup 0s --duration "${seconds}s" "$@"
    await_load
    [ "$(field .errors)" = 0 ] || say "$who: $(errors_by_name)"
    field "\"\(.throughput) \(.latency.p50) \(($(cpu_us "${pids[@]}") - $before) / .right)\"" >>"$dir/$who.figures"
}
# The median of column $2 of a server's lines.
median() { awk -v column="$2" '{ print $column }' "$dir/$1.figures" | middle; }

# Calls of io_uring_enter(2) a request over one connection; nothing where perf may not count them.
count_turns() {
    local event=syscalls:sys_enter_io_uring_enter
    perf stat -e "$event" true 2>/dev/null || return 0
    start_load --mix encrypt=1 --tls 1.3 --closed --connections 1 --warmup 0s --duration "${seconds}s"
    sleep 1
    perf stat -x , -e "$event,syscalls:sys_enter_recvfrom" -p "$server" -o "$dir/turns" -- sleep 1
    await_load
    awk -F , '/sys_enter/ { calls[++n] = $1 } END { printf "%.2f", calls[1] / calls[2] }' "$dir/turns"
}

# Linux's scheduling policy for all threads of both servers: policy other|batch
policy() {
    local pid
    for pid in "$server" $(cat "/proc/$master/task/$master/children"); do chrt --all-tasks "--$1" --pid 0 "$pid"; done
}

# alternate WHAT SERVERS -- ARGUMENTS: a row for each.
alternate() {
    local what="$1" who servers=()
    shift
    while [ "$1" != -- ]; do servers+=("$1"); shift; done
    shift
    rm -f "$dir"/*.figures
    for _ in $(seq "$rounds"); do
        for who in "${servers[@]}"; do against "$who" "$@"; done
    done
    for who in "${servers[@]}"; do
        row "$what" "${who/nginx-logging/nginx, access log on}" "$(calc %d "$(median "$who" 1)")" "$(calc %.3f "$(median "$who" 2) / 1000")" "$(median "$who" 3)"
    done
}

begin demo nginx
configure
serve
body="$(answer_of_xksd)"
serve_nginx
turns="$(count_turns)"

echo "Runs of $seconds s that alternate, $(in_rounds). nginx: a static body of ${#body} bytes."
echo
table "load" "server" "requests a second" "p50 ms" "CPU of the server, µs a request"
alternate "64 connections" xksd nginx nginx-logging -- --closed --connections 64
cpu_full="$(median xksd 3)"
throughput="$(calc %.2f "$(median xksd 1) / $(median nginx 1)")"
with_log="$(calc %.2f "$(median xksd 1) / $(median nginx-logging 1)")"
policy batch
alternate "64 connections, servers with SCHED_BATCH" xksd nginx -- --closed --connections 64
batch="$(calc %.2f "$(median xksd 1) / $(median nginx 1)")"
policy other
alternate "1 connection" xksd nginx -- --closed --connections 1
latency="$(calc %.2f "$(median xksd 2) / $(median nginx 2)")"
cpu_lone="$(calc %.2f "$(median xksd 3) / $(median nginx 3)")"
alternate "1,800/s over 16 connections" xksd nginx -- --rate 1800 --connections 16
cpu_rate="$(calc %.2f "$(median xksd 3) / $(median nginx 3)")"
# One worker would share its core with one of two servers' threads, and be what bounds them both.
alternate "a full handshake for each request, 64 connections" xksd nginx -- --closed --connections 64 --workers 2 --requests-per-connection 1
handshakes="$(calc %.2f "$(median xksd 1) / $(median nginx 1)")"
echo
aim "throughput over nginx's, 64 connections" "$throughput" '>=' 0.95
note "throughput over nginx's with its access log on, 64 connections: $with_log"
aim "throughput over nginx's, 64 connections, servers with SCHED_BATCH" "$batch" '>=' 0.85
aim "CPU of xksd, 64 connections, µs a request" "$(calc %.1f "$cpu_full")" '<=' 12
aim "CPU a request over nginx's, 1 connection" "$cpu_lone" '<=' 1.8
aim "p50 over nginx's, 1 connection" "$latency" '<=' 1.5
aim "CPU a request over nginx's, 1,800/s" "$cpu_rate" '<=' 2
[ -z "$turns" ] || aim "calls of io_uring_enter a request, 1 connection" "$turns" '<=' 2
aim "full handshakes a second over nginx's" "$handshakes" '>=' 0.8
finish
