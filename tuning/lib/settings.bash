# shellcheck shell=bash
# Each setting of tuning/check: what is looked at, what is advised, and why in a few words; the reasons stand in tuning/README.md.
# Sourced by it; needs what lib/facts.bash found, and ok, advise, absent, change, by_hand.
# shellcheck disable=SC2154
# shellcheck disable=SC2015 # "A && B || C" is meant so here: C where one of both does not hold

# Bounds. Those of xksd itself stand in src/limits.rs.
readonly LISTEN_BACKLOG=16384         # connections each shard's listener asks the kernel to hold
readonly CONNECTIONS_A_SHARD=20000    # CONNECTIONS_A_SHARD_MAX
readonly OTHER_DESCRIPTORS=1024       # log, io_uring, admin listener, the HSM's library
readonly MEMLOCK_A_SHARD_KIB=1280     # MEMLOCK_BYTES_A_SHARD
readonly RETRIES_MAX=8                # 108 s until a dead peer is given up; RFC 1122, 4.2.3.5 wants at least 100 s
readonly SYN_RETRIES_MAX=3            # 20 s
readonly KEEPALIVE_SECONDS_MAX=300    # below the 350 s of an AWS network load balancer
readonly CONNTRACK_MIN=131072
readonly EXIT_LATENCY_US_MAX=50       # to wake a core

# NAME FILE BOUND WHY: a number of at least, of at most, or exactly this.
at_least() { bounded "$3" 999999999999999999 "at least $3" "$@"; }
at_most() { bounded 0 "$3" "at most $3" "$@"; }
exactly() { bounded "$3" "$3" "$3" "$@"; }
bounded() {
    local least="$1" most="$2" words="$3" name="$4" file="$5" bound="$6" why="$7" now
    now="$(get "$file")" && is_number "$now" || { absent "$name" "$words" "$why" && return; }
    if ((now >= least && now <= most)); then
        ok "$name" "$now" "$words" "$why"
    else
        advise "$name" "$now" "$words" "$why"
        change "$file" "$bound"
    fi
}

all_settings() {
    linux_version
    io_uring_disabled
    locked_memory
    descriptors
    at_least fs.nr_open /proc/sys/fs/nr_open 1048576 "LimitNOFILE cannot be above it"
    swap
    clocksource
    clock_discipline
    at_least net.core.somaxconn /proc/sys/net/core/somaxconn $LISTEN_BACKLOG "connections that wait for accept, a shard"
    exactly net.ipv4.tcp_syncookies /proc/sys/net/ipv4/tcp_syncookies 1 "a flood of SYNs must not keep KMS out"
    exactly tcp_abort_on_overflow /proc/sys/net/ipv4/tcp_abort_on_overflow 0 "a full queue delays instead of refusing"
    at_most net.ipv4.tcp_retries2 /proc/sys/net/ipv4/tcp_retries2 $RETRIES_MAX "a dead HSM's connections end in 2 minutes, not 15"
    at_most net.ipv4.tcp_syn_retries /proc/sys/net/ipv4/tcp_syn_retries $SYN_RETRIES_MAX "and attempts to reach it in 20 s, not 130"
    at_most tcp_keepalive_time /proc/sys/net/ipv4/tcp_keepalive_time $KEEPALIVE_SECONDS_MAX "firewalls forget idle HSM connections sooner"
    at_least nf_conntrack_max /proc/sys/net/netfilter/nf_conntrack_max $CONNTRACK_MIN "a full table drops new connections"
    governor
    idle_states
    isolated_cores
    numa_node
    interrupts
    receive_steering
    transmit_steering
}

# ---- The kernel and the process -------------------------------------------------------------------------------------

linux_version() {
    local now why="below 5.11 no start; below 5.19 each readable socket interrupts its shard"
    now="$(get /proc/sys/kernel/osrelease)" || { absent Linux "at least 5.19" "$why" && return; }
    if [[ $now =~ ^([0-9]+)\.([0-9]+) ]] && ((BASH_REMATCH[1] * 1000 + BASH_REMATCH[2] >= 5019)); then
        ok Linux "${now:0:21}" "at least 5.19" "$why"
    else
        advise Linux "${now:0:21}" "at least 5.19" "$why"
        by_hand "a newer kernel"
    fi
}

io_uring_disabled() {
    local name=kernel.io_uring_disabled why="xksd does not start without io_uring" now group
    # Before Linux 6.6 there is no such switch.
    now="$(get /proc/sys/kernel/io_uring_disabled)" || { absent "$name" "0, or 1 with group" "$why" && return; }
    group="$(get /proc/sys/kernel/io_uring_group)" || group=-1
    if [ "$now" = 0 ]; then
        ok "$name" 0 "0, or 1 with group" "$why"
    elif [ "$now" = 1 ] && is_number "$group"; then
        ok "$name" "1, group $group" "0, or 1 with group" "$why"
    else
        advise "$name" "$now" "0, or 1 with group" "$why"
        # Who closed it had a reason: not to be opened for everybody by a script.
        by_hand "sysctl kernel.io_uring_group=\$(getent group xksd | cut -d: -f3) kernel.io_uring_disabled=1 (io_uring for xksd's group only)"
    fi
}

locked_memory() {
    local now need=$((shards * MEMLOCK_A_SHARD_KIB)) why="the shards' rings; xksd may not start with less; LimitMEMLOCK"
    now="$(limit_of_xksd "Max locked memory")" || { absent "locked memory, KiB" "at least $need" "$why" && return; }
    now=$((now / 1024))
    if ((now >= need)); then
        ok "locked memory, KiB" "$now" "at least $need" "$why"
    else
        advise "locked memory, KiB" "$now" "at least $need" "$why"
        by_hand "LimitMEMLOCK=infinity in the unit (deploy/xksd.service has it), then restart xksd"
    fi
}

descriptors() {
    local now need=$((shards * CONNECTIONS_A_SHARD + OTHER_DESCRIPTORS)) why="the connections that xksd accepts; LimitNOFILE"
    now="$(limit_of_xksd "Max open files")" || { absent descriptors "20,000 a shard" "$why" && return; }
    if ((now >= need)); then
        ok descriptors "$now" "at least $need" "$why"
    else
        advise descriptors "$now" "at least $need" "$why"
        by_hand "LimitNOFILE=1048576 in the unit (deploy/xksd.service has it), then restart xksd"
    fi
}

swap() {
    local areas group why="plaintext must not reach a disk"
    [ -r "$root/proc/swaps" ] || { absent swap none "$why" && return; }
    areas="$(awk 'NR > 1' "$root/proc/swaps" | wc -l)"
    if [ "$areas" -gt 0 ] && [ -n "$pid" ]; then
        # MemorySwapMax=0 in the unit.
        group="$(sed -n 's/^0:://p' "$root/proc/$pid/cgroup" 2>/dev/null)"
        if [ "$(get "/sys/fs/cgroup$group/memory.swap.max")" = 0 ]; then
            ok swap "not for xksd" "none" "$why"
            return
        fi
    fi
    if [ "$areas" -eq 0 ]; then
        ok swap none none "$why"
    else
        advise swap "$areas areas" none "$why"
        by_hand "MemorySwapMax=0 in the unit (deploy/xksd.service has it), or swapoff -a and no swap in /etc/fstab"
    fi
}

# ---- Time -----------------------------------------------------------------------------------------------------------

clocksource() {
    local dir=/sys/devices/system/clocksource/clocksource0 now fast="tsc" why="the clock is read several times a request"
    now="$(get $dir/current_clocksource)" || { absent clocksource "$fast" "$why" && return; }
    case "$now" in
    tsc | kvm-clock | hyperv_clocksource_tsc_page | arch_sys_counter)
        ok clocksource "$now" "$now" "$why"
        return
        ;;
    esac
    advise clocksource "$now" "$fast" "$why"
    if [[ " $(get $dir/available_clocksource) " == *" $fast "* ]]; then
        change $dir/current_clocksource "$fast"
    else
        by_hand "the kernel gave up the tsc at boot: its log says why (dmesg | grep -i tsc), often a BIOS to update"
    fi
}

clock_discipline() {
    local daemon why="SigV4 allows 5 minutes of skew"
    # Names as /proc cuts them, to 15 characters.
    daemon="$(processes_named chronyd ntpd systemd-timesyn ptp4l | head -n 1)"
    if [ -n "$daemon" ]; then
        ok "clock set by" "process $daemon" "chrony or another" "$why"
    else
        advise "clock set by" nobody "chrony or another" "$why"
        by_hand "apt-get install chrony, and see that chronyc tracking is content"
    fi
}

# ---- Cores ----------------------------------------------------------------------------------------------------------

governor() {
    local cpu file now why="a core that clocks down serves the next request slowly" seen="" slow=0
    for cpu in "${cpus[@]}"; do
        file="/sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor"
        now="$(get "$file")" || continue
        [[ " $seen " == *" $now "* ]] || seen="${seen:+$seen }$now"
        if [ "$now" != performance ]; then
            slow=$((slow + 1))
            change "$file" performance
        fi
    done
    if [ -z "$seen" ]; then
        absent "frequency governor" performance "$why"
    elif [ "$slow" -eq 0 ]; then
        ok "frequency governor" "$seen" performance "$why"
    else
        advise "frequency governor" "$seen" performance "$why"
    fi
}

idle_states() {
    local cpu state latency any="" deepest=0 name="-" deep=0 words="exit in <= $EXIT_LATENCY_US_MAX us" why="each wake of a sleeping core waits for it"
    for cpu in "${cpus[@]}"; do
        for state in "$root/sys/devices/system/cpu/cpu$cpu/cpuidle"/state*; do
            state="${state#"$root"}"
            latency="$(get "$state/latency")" && is_number "$latency" || continue
            any=yes
            [ "$(get "$state/disable")" = 0 ] || continue
            if ((latency >= deepest)); then deepest=$latency name="$(get "$state/name")" || name="?"; fi
            if ((latency > EXIT_LATENCY_US_MAX)); then
                deep=$((deep + 1))
                change "$state/disable" 1
            fi
        done
    done
    if [ -z "$any" ]; then
        absent "idle states" "$words" "$why"
    elif [ "$deep" -eq 0 ]; then
        ok "idle states" "$name, $deepest us" "$words" "$why"
    else
        advise "idle states" "$name, $deepest us" "$words" "$why"
    fi
}

isolated_cores() {
    local list cpu isolated both="" why="on isolcpus cores the kernel leaves all HSM lanes on one core"
    [ -r "$root/sys/devices/system/cpu/isolated" ] || { absent "isolcpus of xksd's cores" none "$why" && return; }
    # Empty where there are none.
    list="$(get /sys/devices/system/cpu/isolated)" || list=""
    if is_cpu_list "$list"; then
        isolated=" $(cpus_of "$list")"
        for cpu in "${cpus[@]}"; do [[ $isolated != *" $cpu "* ]] || both+="${both:+,}$cpu"; done
    fi
    if [ -z "$both" ]; then
        ok "isolcpus of xksd's cores" none none "$why"
    else
        advise "isolcpus of xksd's cores" "$both" none "$why"
        by_hand "take these cores out of the boot parameter isolcpus; keep other programs off them by AllowedCPUs= (deploy/xksd.service.d)"
    fi
}

numa_node() {
    local node list cpu near away="" why="packets and their buffers stay on one node"
    node="$(get "/sys/class/net/$interface/device/numa_node")" || node=-1
    # -1: the device has no node; with one node there is no choice.
    if [ "$nodes" -lt 2 ] || ! is_number "$node" || ! list="$(get "/sys/devices/system/node/node$node/cpulist")" || ! is_cpu_list "$list"; then
        absent "NUMA node of xksd" "the interface's" "$why"
        return
    fi
    near=" $(cpus_of "$list")"
    for cpu in "${cpus[@]}"; do [[ $near == *" $cpu "* ]] || away+="${away:+,}$cpu"; done
    if [ -z "$away" ]; then
        ok "NUMA node of xksd" "$node" "$node" "$why"
    else
        advise "NUMA node of xksd" "away: ${away:0:15}" "$node ($list)" "$why"
        by_hand "CPUAffinity=$list, NUMAPolicy=bind and NUMAMask=$node for the unit (deploy/xksd.service.d), then restart xksd"
    fi
}

# ---- The network interface ------------------------------------------------------------------------------------------

interrupts() {
    local irqs irq cpu at=0 seen=" " distinct=0 wanted why="one core must not take all of the network's interrupts"
    mapfile -t irqs < <([ -z "$interface" ] || irqs_of_interface)
    wanted=$((${#irqs[@]} < ${#cpus[@]} ? ${#irqs[@]} : ${#cpus[@]}))
    if [ ${#irqs[@]} -lt 2 ] || [ "$wanted" -lt 2 ]; then
        absent "interrupts of interface" "spread over cores" "$why"
        return
    fi
    for irq in "${irqs[@]}"; do
        cpu="$(get "/proc/irq/$irq/effective_affinity_list")" || cpu="$(get "/proc/irq/$irq/smp_affinity_list")" || continue
        if [[ $seen != *" $cpu "* ]]; then
            seen+="$cpu "
            distinct=$((distinct + 1))
        fi
    done
    if [ "$distinct" -ge "$wanted" ]; then
        ok "interrupts of interface" "on $(counted "$distinct" core)" "on $wanted cores" "$why"
        return
    fi
    advise "interrupts of interface" "on $(counted "$distinct" core)" "on $wanted cores" "$why"
    for irq in "${irqs[@]}"; do
        change "/proc/irq/$irq/smp_affinity_list" "${cpus[at++ % ${#cpus[@]}]}"
    done
    if [ -n "$(processes_named irqbalance)" ]; then by_hand "irqbalance runs and will move interrupts again: stop it, or ban the interface's interrupts in it"; fi
}

# The queues of the interface: rx or tx.
queues() {
    local dir
    for dir in "$root/sys/class/net/$interface/queues/$1"-*; do
        [ -z "$interface" ] || [ ! -d "$dir" ] || printf '%s\n' "${dir#"$root"}"
    done | sort -V
}

# A mask without a bit.
is_empty_mask() { [[ $1 =~ ^[0,]*$ ]]; }

receive_steering() {
    local rx queue on=0 mask name="RPS of interface" why
    mapfile -t rx < <(queues rx)
    [ ${#rx[@]} -gt 0 ] && [ -e "$root${rx[0]}/rps_cpus" ] || { absent "$name" "-" "for interfaces with few queues" && return; }
    for queue in "${rx[@]}"; do
        mask="$(get "$queue/rps_cpus")" && ! is_empty_mask "$mask" && on=$((on + 1))
    done
    if [ ${#rx[@]} -ge 2 ] || [ ${#cpus[@]} -le 2 ]; then
        why="its own queues spread packets"
        [ ${#rx[@]} -ge 2 ] || why="nothing to spread over"
        if [ "$on" -eq 0 ]; then
            ok "$name" off off "$why"
        else
            advise "$name" "on $(counted "$on" queue)" off "$why"
            for queue in "${rx[@]}"; do change "$queue/rps_cpus" "$(mask_of)"; done
        fi
    elif [ "$on" -gt 0 ]; then
        ok "$name" on on "one queue: one core would do all of TCP"
    else
        advise "$name" off on "one queue: one core would do all of TCP"
        change "${rx[0]}/rps_cpus" "$(mask_of "${cpus[@]}")"
    fi
}

transmit_steering() {
    local tx queue at off=0 mask name="XPS of interface" why="a core sends through its own queue"
    mapfile -t tx < <(queues tx)
    # With one queue there is nothing to choose, and the file cannot be read.
    if [ ${#tx[@]} -lt 2 ] || ! get "${tx[0]}/xps_cpus" >/dev/null; then
        absent "$name" "each queue a core" "$why"
        return
    fi
    for queue in "${tx[@]}"; do
        mask="$(get "$queue/xps_cpus")" && ! is_empty_mask "$mask" || off=$((off + 1))
    done
    if [ "$off" -lt ${#tx[@]} ]; then
        # Some drivers leave queues beyond the cores without one.
        ok "$name" "$((${#tx[@]} - off)) of ${#tx[@]} queues" "each queue a core" "$why"
        return
    fi
    advise "$name" off "each queue a core" "$why"
    for at in "${!tx[@]}"; do
        [ "$at" -lt ${#cpus[@]} ] || break
        change "${tx[at]}/xps_cpus" "$(mask_of "${cpus[at]}")"
    done
}
