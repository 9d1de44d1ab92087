#!/usr/bin/env bash
# What quotas, policies and the audit trail cost: throughput over 64 connections with each and with all, alternating with none (keys in a file)
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
seconds="${SECONDS_A_RUN:-5}"
set_rounds 3

trails=0

audit() {
    trails=$((trails + 1))
    printf '[audit]\ndirectory = "%s"\nsigning_key = { file = "%s" }\norigin = "xksd.example/performance"\ndurability = "%s"\n' \
        "$dir/trail-$trails" "$dir/audit-key" "$1"
}

quota() {
    printf '[keystore.quota]\nrequests_per_second = 1000000\nconcurrent = 100000\n'
    printf '[keystore.key.quota]\nrequests_per_second = 1000000\n'
}

# Two policies that each request has to pass.
policy() { printf '[keystore.policy]\nfiles = ["%s"]\n' "$dir/load.cedar"; }

# The sections of a variant.
sections() {
    case "$1" in
    none | none-principals) ;;
    policy | policy-principals) policy ;;
    quota) quota ;;
    audit-interval) audit interval ;;
    audit-answer) audit answer ;;
    all) quota; policy; audit interval ;;
    esac
}

# serve_with VARIANT: the configuration as it was made, and what the variant adds.
serve_with() {
    cp "$dir/plain.toml" "$config"
    sections "$1" >>"$config"
    serve
}

# measure VARIANT: figures into $dir/VARIANT.figures, a line a round.
measure() {
    local principals=1
    [[ "$1" != *-principals ]] || principals=1000
    serve_with "$1"
    load --closed --connections 64 --principals "$principals"
    field '"\(.throughput) \(.latency.p50) \(.latency.p99) \(.proxy.cpu.us_per_request)"' >>"$dir/$1.figures"
    [ "$(field .errors)" = 0 ] || say "$1: $(errors_by_name)"
    stop_server
}
# The median of column $2 of a variant's lines.
median() { awk -v column="$2" '{ print $column }' "$dir/$1.figures" | middle; }
# The client signs each request of many principals, so that one has another none to stand beside.
against_none() {
    local none=none
    [[ "$1" != *-principals ]] || none="none-principals"
    calc %.2f "$(median "$1" 1) / $(median "$none" 1)"
}

begin demo
configure
cp "$config" "$dir/plain.toml"
"$bin/xksd" audit key new --write-secret "$dir/audit-key" --origin xksd.example/performance >/dev/null
cat >"$dir/load.cedar" <<'T'
@id("roles") permit (principal, action, resource)
when { principal.kind == "role" && principal.name like "xksd-load-*" };
@id("accounts") forbid (principal, action, resource)
unless { ["123456789012", "111122223333"].contains(principal.account) };
T

variants=(none quota policy audit-interval all audit-answer none-principals policy-principals)
for _ in $(seq "$rounds"); do
    for variant in "${variants[@]}"; do
        say "with $variant"
        measure "$variant"
    done
done

echo "64 connections, runs of $seconds s that alternate, $(in_rounds)."
echo "With \`-principals\`, 1,000 of them in turn."
echo
table "with" "32-byte CDIV encrypts a second" "of none" "p50 ms" "p99 ms" "CPU of xksd, µs a request"
for variant in "${variants[@]}"; do
    row "$variant" "$(calc %d "$(median "$variant" 1)")" "$(against_none "$variant")" \
        "$(calc %.3f "$(median "$variant" 2) / 1000")" "$(calc %.3f "$(median "$variant" 3) / 1000")" \
        "$(calc %.1f "$(median "$variant" 4)")"
done
echo
table "at 1,800 requests/s, with" "p50 ms" "p99 ms" "p99.9 ms" "errors"
for variant in none audit-interval audit-answer; do
    serve_with "$variant"
    load --rate 1800 --connections 64
    row "$variant" "$(calc %.3f "$(field .latency.p50) / 1000")" "$(calc %.3f "$(field .latency.p99) / 1000")" \
        "$(calc %.3f "$(field .latency.p999) / 1000")" "$(errors_by_name)"
    stop_server
done
echo
note "the trail is on $(stat -f -c %T "$dir"), a write of 4 KiB with fdatasync takes $(
    dd if=/dev/zero of="$dir/disk" bs=4k count=200 oflag=dsync 2>&1 |
        awk '/copied/ { for (n = 1; n <= NF; n++) if ($n == "s,") printf "%.2f ms", $(n - 1) * 1000 / 200 }')"
for variant in quota policy policy-principals audit-interval all; do
    aim "throughput with $variant over none" "$(against_none "$variant")" '>=' 0.9
done
finish
