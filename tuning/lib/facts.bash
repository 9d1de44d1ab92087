# shellcheck shell=bash
# What tuning/check reads of the machine. Sourced by it; needs $root, $pid, $interface, $cpu_list.
# shellcheck disable=SC2154
# shellcheck disable=SC2015 # "A && B || C" is meant so here: C where one of both does not hold

# Content of a file of one line; of "always [madvise] never" the word in brackets, which is what counts and what can be written back.
get() {
    local text=""
    [ -f "$root$1" ] && [ -r "$root$1" ] || return 1
    { IFS= read -r text <"$root$1" || [ -n "$text" ]; } 2>/dev/null || return 1
    if [[ $text =~ \[([^]]+)\] ]]; then text="${BASH_REMATCH[1]}"; fi
    printf '%s' "$text"
}

# A number of things: counted 2 shard → 2 shards
counted() { printf '%d %s' "$1" "$2$([ "$1" -eq 1 ] || printf s)"; }

is_number() { [[ $1 =~ ^[0-9]{1,18}$ ]]; }

# "0-2,5" → 0 1 2 5
cpus_of() {
    local part from to
    for part in ${1//,/ }; do
        from="${part%-*}" to="${part#*-}"
        for ((; from <= to; from++)); do printf '%d ' "$from"; done
    done
}
is_cpu_list() { [[ $1 =~ ^[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*$ ]]; }

# Cores as /sys takes a mask: hexadecimal words of 32, the highest first.
mask_of() {
    local cpu word words=(0) mask=""
    for cpu in "$@"; do
        word=$((cpu / 32))
        words[word]=$((${words[word]:-0} | 1 << (cpu % 32)))
    done
    for ((word = cpu_words - 1; word >= 0; word--)); do mask+="$(printf '%08x' "${words[word]:-0}"),"; done
    printf '%s' "${mask%,}"
}

# Processes with one of these names.
processes_named() {
    local file name wanted
    for file in "$root"/proc/[0-9]*/comm; do
        { IFS= read -r name <"$file"; } 2>/dev/null || continue
        for wanted in "$@"; do
            [ "$name" != "$wanted" ] || basename "$(dirname "$file")"
        done
    done
}

# How many shards a process has. Each has a second thread of the same name, for calls that block.
shards_of() {
    { cat "$root/proc/$1/task"/*/comm 2>/dev/null | grep '^xksd-shard' | sort -u | wc -l; } || true
}

# First xksd that serves; its other commands have the same name.
process_of_xksd() {
    local each
    for each in $(processes_named xksd); do
        [ "$(shards_of "$each")" -eq 0 ] || {
            printf '%s' "$each"
            return
        }
    done
}

# A field of /proc/PID/status.
status_of() { sed -n "s/^$2:[[:space:]]*//p" "$root/proc/$1/status" 2>/dev/null; }

# Soft limit of the running xksd, as a number; "unlimited" as one that is large enough.
limit_of_xksd() {
    local limit
    [ -n "$pid" ] || return 1
    # Both are raised to the hard limit at its start.
    limit="$(sed -n "s/^$1 *[^ ]* *\([^ ]*\).*/\1/p" "$root/proc/$pid/limits" 2>/dev/null)"
    [ "$limit" != unlimited ] || limit=999999999999999
    is_number "$limit" && printf '%s' "$limit"
}

# Interrupts of the interface: of its device, or (virtio) of the device's device.
irqs_of_interface() {
    local dir irq
    for dir in "$root/sys/class/net/$interface/device/msi_irqs" "$root/sys/class/net/$interface/device/../msi_irqs"; do
        [ -d "$dir" ] || continue
        for irq in "$dir"/*; do
            irq="${irq##*/}"
            [ ! -f "$root/proc/irq/$irq/smp_affinity_list" ] || printf '%s\n' "$irq"
        done | sort -n
        return
    done
}

# Sets pid, interface, cpus (array), cpu_words, nodes (count), shards (of the running xksd; 0 when none runs).
find_facts() {
    local file
    [ -z "$pid" ] || [ -f "$root/proc/$pid/status" ] || wrong "there is no process $pid"
    [ -n "$pid" ] || pid="$(process_of_xksd)"
    if [ -n "$interface" ]; then
        [[ $interface =~ ^[A-Za-z0-9_.@-]{1,15}$ ]] && [ -d "$root/sys/class/net/$interface" ] || wrong "there is no network interface $interface"
    elif [ -r "$root/proc/net/route" ]; then
        interface="$(awk '$2 == "00000000" { print $1; exit }' "$root/proc/net/route")"
    fi
    local all
    all="$(get /sys/devices/system/cpu/online)" || all=0
    [ -n "$cpu_list" ] || { [ -n "$pid" ] && cpu_list="$(status_of "$pid" Cpus_allowed_list)"; } || true
    [ -n "$cpu_list" ] || cpu_list="$all"
    is_cpu_list "$cpu_list" || wrong "$cpu_list is not a list of cores like 2-9,12"
    read -ra cpus <<<"$(cpus_of "$cpu_list")"
    read -ra online <<<"$(cpus_of "$all")"
    for cpu in "${cpus[@]}"; do [[ " ${online[*]} " == *" $cpu "* ]] || wrong "there is no core $cpu"; done
    cpu_words=$((online[-1] / 32 + 1))
    nodes=0
    for file in "$root"/sys/devices/system/node/node[0-9]*; do [ ! -d "$file" ] || nodes=$((nodes + 1)); done
    shards=0
    [ -z "$pid" ] || shards="$(shards_of "$pid")"
}

# What the table is about.
about() {
    local word=cores
    [ ${#cpus[@]} -ne 1 ] || word=core
    printf '%s %s; interface %s; %s\n\n' "$word" "$cpu_list" "${interface:-not found (--interface)}" \
        "$([ -n "$pid" ] && printf 'xksd is process %s with %s' "$pid" "$(counted "$shards" shard)" || printf 'xksd does not run')"
}
