# shellcheck shell=bash
# How boot-test boots its root in a container. Sourced; $root is the root, $name the machine's name.

leader=''    # the root's PID 1, as seen from here
container='' # systemd-nspawn
watchdog=2   # seconds: shorter than the master hangs

check_tools() { need_root_and systemd-nspawn nsenter; }

cgroups_here() { awk '$3 == "cgroup2" || ($3 == "cgroup" && $4 ~ /name=systemd/) { print $2 }' /proc/self/mounts; }

# Without a systemd that gives it a scope, it needs cgroups of its own to divide.
boot() {
    (
        if [ ! -d /run/systemd/system ]; then
            for mount in $(cgroups_here); do
                mkdir -p "$mount/$name"
                echo "$BASHPID" >"$mount/$name/cgroup.procs"
            done
            set -- --keep-unit
        fi
        # The second has drover mount a BPF file system.
        export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=1
        exec systemd-nspawn --quiet "$@" --register=no --directory="$root" --machine="$name" \
            --capability=all --system-call-filter='bpf pidfd_getfd' --private-network --console=read-only --boot
    ) >"$deb/console.log" 2>&1 </dev/null &
    container=$!
    eventually is_up || die "systemd does not come up: $(tail -n 20 "$deb/console.log")"
    inside mkdir -p /sys/fs/bpf
}
is_up() {
    leader=$(pgrep -P "$container" | head -n 1)
    [ -n "$leader" ] && inside systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded'
}
inside() { # COMMAND…
    nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup \
        env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}

# Ends it, whatever it does.
power_off() {
    [ -n "$container" ] || return 0
    inside systemctl poweroff 2>/dev/null || true
    eventually is_gone || kill -9 "$container"
    wait "$container" || true
    container=''
}
is_gone() { ! kill -0 "$container" 2>/dev/null; }
reboot() {
    power_off
    boot
}
clean_up() {
    power_off
    local mount
    [ -d /run/systemd/system ] || for mount in $(cgroups_here); do
        [ ! -d "$mount/$name" ] || find "$mount/$name" -depth -type d -exec rmdir {} +
    done
    rm -rf "$root"
}
