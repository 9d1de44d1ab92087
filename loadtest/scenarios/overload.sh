#!/usr/bin/env bash
# Slow HSM (4 ms a call, 32 sessions) at 50 %, 400 % and again 50 % of its capacity: goodput, latest answer, memory, recovery
# shellcheck source=loadtest/scenarios/common.sh
. "$(dirname "$0")/common.sh"
seconds="${SECONDS_A_RUN:-30}"
sessions=32
warmup=2

begin demo
simulator xks <<T
[wire]
fixed_us = 4000
T
step="$seconds"
seconds="$((seconds < 5 ? seconds : 5))"
alone="$(loop "$dir/xks.so" xks "$sessions")"
configure_simulator xks "$sessions"
serve
normal="$(calc %d "$alone * 0.5")"
# What is accepted waits for up to the budget (200 ms), 1/5 of a second's capacity at once; what is refused is back in a millisecond. The
# loop stays open with connections for several times as much.
connections=1024
say "load: $normal/s, $((alone * 4))/s, $normal/s for $step s each"
start_load --mix encrypt=1 --tls 1.3 --steps "$normal,$((alone * 4)),$normal" --step-time "${step}s" --warmup "${warmup}s" --connections "$connections"
sleep "$((warmup + step - 1))"
before="$(memory)"
sleep "$step"
during="$(memory)"
await_load
after="$(memory)"

table "offered, a second" "answered right, a second" "p50 ms" "p99 ms" "not answered right" "memory, MiB"
memories=("$before" "$during" "$after")
for n in 0 1 2; do
    of() { field ".steps[$n].$1"; }
    row "$(of 'offered_rate | floor')" "$(of 'throughput | floor')" "$(ms "$(of p50)")" "$(ms "$(of p99)")" "$(of errors)" "$(calc %.1f "${memories[$n]} / 1024")"
done
echo
note "bare loop: $alone/s; errors: $(errors_by_name)"
# Seconds of the last step that began a second or more after the overload ended, and were whole.
calm="[.timeline[] | select(.second > $warmup + 2 * $step and .second < $warmup + 3 * $step)]"
aim "goodput over the bare loop" "$(calc %.3f "$(field '.steps[1].throughput') / $alone")" '>=' 0.90
aim "wrong answers" "$(field .wrong)" '==' 0
aim "requests without an answer" "$(field .answers.none)" '==' 0
aim "latest answer, ms" "$(ms "$(field .answers.latest_us)")" '<' 250
aim "errors other than ThrottlingException" "$(field '[.errors_by_name | to_entries[] | select(.key | test("Throttling") | not) | .value] | add // 0')" '==' 0
aim "errors from one second after the overload" "$(field "$calm | map(.errors) | add // 0")" '==' 0
aim "worst p99 of a second from then on, over p99 before" "$(calc %.2f "$(field "$calm | map(.p99) | max") / $(field '.steps[0].p99')")" '<=' 2
finish
