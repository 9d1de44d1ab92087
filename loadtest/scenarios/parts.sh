#!/usr/bin/env bash
# Parts of a request's way by themselves, without sockets: cargo bench (see benches/README.md)
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"

criterion="${CARGO_TARGET_DIR:-target}/criterion"
# What earlier benches of other names left.
rm -rf "$criterion"
say "cargo bench, some two minutes"
cargo bench --locked --quiet --bench parts >&2

table "part" "µs"
find "$criterion" -path '*/new/benchmark.json' | sort | while read -r bench; do
    row "$(jq -r .title "$bench")" "$(jq '.median.point_estimate / 10 | round / 100' "${bench%benchmark.json}estimates.json")"
done
finish
