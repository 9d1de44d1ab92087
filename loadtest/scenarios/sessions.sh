#!/usr/bin/env bash
# Slow HSM (4 ms a call, 32 sessions): 64 and 256 connections, all of them on one shard, and latency at 80 % of the load, against a bare loop
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
sessions=32

# The kernel picks the shard of a connection by a hash of both addresses and ports. Prints $1 source ports whose connections come to shard 0, found by
# trying: after each connection, xksd's status tells which shard has one more.
ports_of_shard_0() {
    perl -MIO::Socket::INET -MSocket -e '
        my ($xks, $admin, $wanted) = @ARGV;
        sub on_shards {
            my $status = IO::Socket::INET->new($admin) or die "no status: $!\n";
            print $status "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            local $/;
            return <$status> =~ /"connections_open": (\d+)/g;
        }
        my @held;
        # Those of the load before are gone first: their end would hide what is opened here.
        my ($zero, $one);
        do { ($zero, $one) = on_shards() } until $zero + $one == 0;
        for my $port (15000 .. 16999) {
            last unless $wanted;
            my $held = IO::Socket::INET->new(PeerAddr => $xks, LocalAddr => "127.0.0.1", LocalPort => $port, ReuseAddr => 1) or next;
            # Closed by a reset, so that the port is free again at once.
            setsockopt($held, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0));
            push @held, $held;
            my @now;
            do { @now = on_shards() } until $now[0] + $now[1] > $zero + $one;
            if ($now[0] > $zero) { print "$port\n"; $wanted--; }
            ($zero, $one) = @now;
        }
        exit($wanted != 0);' "$xks" "$admin" "$1" || die "no source ports of shard 0 were found"
}

# A TCP relay that gives each connection one of the source ports in $dir/ports. TLS goes through it as it is.
start_relay() {
    local port
    relay="127.0.0.1:$(free_port)"
    {
        printf 'global\n maxconn 1000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n'
        printf 'listen relay\n bind %s\n balance leastconn\n' "$relay"
        while read -r port; do printf ' server p%s %s source 127.0.0.1:%s maxconn 1\n' "$port" "$xks" "$port"; done <"$dir/ports"
    } >"$dir/haproxy.cfg"
    haproxy -db -f "$dir/haproxy.cfg" 2>"$dir/haproxy.log" &
    children[$!]=haproxy
    sleep 0.5
}

measured() {
    row "$1" "$(field '.throughput | floor')" "$(ms "$(field .latency.p50)")" "$(ms "$(field .latency.p99)")" "$(errors_by_name)"
}

begin demo haproxy
simulator xks <<T
[wire]
fixed_us = 4000
T
alone="$(loop "$dir/xks.so" xks "$sessions")"
configure_simulator xks "$sessions"
# Two shards wherever this runs: sessions of one must serve the jobs of the other.
sed -i 's/^\[server\]/&\nshards = 2/' "$config"
serve

table "32-byte CDIV encrypts" "a second" "p50 ms" "p99 ms" "errors"
row "bare loop, $sessions sessions" "$alone" "" "" ""
declare -A ratio
for connections in 64 256; do
    load --closed --connections "$connections"
    ratio[$connections]="$(calc %.3f "$(field .throughput) / $alone")"
    measured "xksd, $connections connections"
done
load --rate "$(calc %d "$alone * 0.8")" --connections 64
p99="$(field .latency.p99)"
measured "xksd, 64 connections, open loop at 80 % of the bare loop"
say "looking for source ports that lead to shard 0"
# More than connections: one that was just given up is not free at once.
ports_of_shard_0 80 >"$dir/ports"
start_relay
start_load --mix encrypt=1 --tls 1.3 --closed --connections 64 --duration "${seconds}s" --warmup 1s --connect "$relay" --pid "$server"
sleep 2
shards="$(status | jq -c '[.shards[].connections_open]')"
await_load
measured "xksd, 64 connections, all on one shard (open: ${shards//,/, })"
echo
aim "64 connections over the bare loop" "${ratio[64]}" '>=' 0.95
aim "256 connections over the bare loop" "${ratio[256]}" '>=' 0.95
aim "p99 at 80 % of the load, ms" "$(ms "$p99")" '<' 60
aim "all connections on one shard, over the bare loop" "$(calc %.3f "$(field .throughput) / $alone")" '>=' 0.90
aim "connections on the other shard" "$(jq '.[1]' <<<"$shards")" '==' 0
finish
