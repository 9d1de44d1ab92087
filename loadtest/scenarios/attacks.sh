#!/usr/bin/env bash
# Two attacks on TLS, on xksd and on nginx: client certificates under 100 authorities beside honest requests, and 4,000 hellos at once
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
seconds="${SECONDS_A_RUN:-10}"
set_rounds 3
authorities=100
handshakes=10
hellos=4000
rate=500

begin demo nginx attacks
ulimit -n "$(ulimit -Hn)"
[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge $((hellos + 500)) ] || die "$((hellos + 500)) open files are needed, $(ulimit -n) are allowed"

# ---- certificates -----------------------------------------------------------------------------------------------

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out "$1" 2>/dev/null; }
# A certificate: issue NAME SUBJECT ISSUER EXTENSIONS; below itself where NAME is ISSUER.
issue() {
    local by=()
    [ -f "$dir/$1.key" ] || key "$dir/$1.key"
    [ "$1" = "$3" ] || by=(-CA "$dir/$3.pem" -CAkey "$dir/$3.key")
    openssl req -x509 -new -config "$dir/openssl.cnf" -key "$dir/$1.key" -subj "/CN=$2" -days 30 "${by[@]}" -addext "$4" -out "$dir/$1.pem" 2>/dev/null
}
certificates() {
    local above=stranger number
    say "certificates under $authorities authorities"
    # Without the extensions of the machine's own file.
    printf '[req]\ndistinguished_name = name\n[name]\n' >"$dir/openssl.cnf"
    issue anchor "Clients" anchor "basicConstraints=critical,CA:TRUE"
    issue honest "kms.example.com" anchor "extendedKeyUsage=clientAuth"
    # The same name as the anchor's, and another key: its signatures have to be checked to be refused.
    issue stranger "Clients" stranger "basicConstraints=critical,CA:TRUE"
    : >"$dir/above.pem"
    for number in $(seq "$authorities"); do
        cp "$dir/stranger.key" "$dir/authority$number.key"
        issue "authority$number" "Clients" "$above" "basicConstraints=critical,CA:TRUE"
        above="authority$number"
        cat "$dir/$above.pem" "$dir/above.pem" >"$dir/above.new"
        mv "$dir/above.new" "$dir/above.pem"
    done
    issue leaf "kms.example.com" "$above" "extendedKeyUsage=clientAuth"
    cat "$dir/leaf.pem" "$dir/above.pem" >"$dir/chain.pem"
}

# ---- servers ----------------------------------------------------------------------------------------------------

certificates
configure
printf '\n[tls.client]\ntrust_anchors = "%s"\nsubject_common_names = ["kms.example.com"]\n' "$dir/anchor.pem" >>"$config"
serve
nginx="127.0.0.1:$(free_port)"
open="127.0.0.1:$(free_port)"
# As deep as xksd goes; nginx's own limit is 1.
start_nginx "$open" $((2 * hellos)) "server { listen $open ssl; return 200; }" \
    "server { listen $nginx ssl reuseport backlog=16384; access_log off; ssl_client_certificate $dir/anchor.pem; ssl_verify_client on; ssl_verify_depth 6; return 200; }"

attack() { python3 loadtest/attack.py "$@"; }
# honest WHO ADDRESS FILE: a load; its p99, µs, is put behind the others in $dir/FILE.
honest() {
    local unverified=()
    [ "$1" = xksd ] || unverified=(--unverified)
    load --rate "$rate" --connections 16 --connect "$2" --client-certificate "$dir/honest.pem" --client-key "$dir/honest.key" "${unverified[@]}"
    [ "$(field .errors)" = 0 ] || say "$1: $(errors_by_name)"
    field .latency.p99 >>"$dir/$3"
}

# ---- certificates beside honest requests ------------------------------------------------------------------------

for round in $(seq "$rounds"); do
    for who in xksd nginx; do
        say "certificates, $who, round $round of $rounds"
        address="$xks"
        [ "$who" = xksd ] || address="$nginx"
        honest "$who" "$address" "$who.alone"
        attack chain "$address" "$dir/chain.pem" "$dir/leaf.key" "$handshakes" $((seconds + 2)) >"$dir/refused" &
        attacker=$!
        children[$attacker]=python3
        honest "$who" "$address" "$who.beside"
        wait "$attacker"
        unset "children[$attacker]"
        cat "$dir/refused" >>"$dir/$who.refused"
    done
done
table "server" "p99 ms by itself" "p99 ms beside $handshakes such handshakes a second" "ratio"
for who in xksd nginx; do
    alone="$(middle <"$dir/$who.alone")" beside="$(middle <"$dir/$who.beside")"
    row "$who" "$(ms "$alone")" "$(ms "$beside")" "$(calc %.2f "$beside / $alone")"
done
echo

# ---- hellos that nobody waits for -------------------------------------------------------------------------------

for round in $(seq "$rounds"); do
    for who in xksd nginx; do
        say "hellos, $who, round $round of $rounds"
        address="$xks"
        [ "$who" = xksd ] || address="$nginx"
        attack burst "$address" "$hellos" "$dir/demo/ca.pem" "$dir/honest.pem" "$dir/honest.key" >>"$dir/$who.recovery"
        sleep 2
    done
done
table "server" "served again after $hellos hellos, s"
for who in xksd nginx; do row "$who" "$(calc %.2f "$(middle <"$dir/$who.recovery") / 1000")"; done
echo
note "$rate honest encrypts a second, $(in_rounds)"
all=$((handshakes * (seconds + 2) * rounds))
aim "handshakes with such a certificate that xksd refused, of $all" "$(awk '{ sum += $1 } END { print sum }' "$dir/xksd.refused")" '>=' "$all"
aim "p99 beside the certificates over nginx's" "$(calc %.2f "$(middle <"$dir/xksd.beside") / $(middle <"$dir/nginx.beside")")" '<=' 1.5
# Below a quarter of a second the figures are those of the client.
aim "time until served again over nginx's" "$(awk -v x="$(middle <"$dir/xksd.recovery")" -v n="$(middle <"$dir/nginx.recovery")" \
    'BEGIN { if (n < 250) n = 250; printf "%.2f", x / n }')" '<=' 1.5
finish
