# shellcheck shell=bash
# How boot-test boots its root in a virtual machine. Sourced; $root is the root.
#
# The machine's root is $root itself, so what is copied there is seen at once. Commands go through
# QEMU's guest agent, on the machine's second serial line. Its console is build/vm/console.log.

# shellcheck source=scripts/vm_common.sh
. scripts/vm_common.sh
writable=1
# In seconds; an emulated processor is slow, and must not look as if it hung.
patience=180
watchdog=10 # shorter than the master hangs

check_tools() {
    check_vm_tools
    lock_machine
}

# The root gets the kernel's modules, and the agent as a service.
prepare_root() {
    fetch_kernel 6.1
    make_initramfs /sbin/init
    mkdir -p "$root/lib/modules"
    cp -r "$kernel/lib/modules/$release" "$root/lib/modules/"
    cat >"$root/etc/systemd/system/agent.service" <<'UNIT'
[Service]
ExecStart=/usr/sbin/qemu-ga --method=isa-serial --path=/dev/ttyS1
[Install]
WantedBy=multi-user.target
UNIT
    chroot "$root" systemctl --quiet enable agent.service
    # Without udev it would wait for its line.
    chroot "$root" systemctl --quiet mask serial-getty@ttyS0.service
}

boot() {
    prepare_root
    share "$(realpath "$root")"
    machine '' 1800 -pidfile "$sockets/pid" \
        -chardev socket,id=agent,path="$sockets/agent",server=on,wait=off -serial chardev:agent \
        >"$vm/console.log" 2>&1 &
    eventually is_up || die "systemd does not come up: $(tail -n 20 "$vm/console.log")"
    say "booted: $(inside uname -v)"
}
is_up() { inside systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded'; }
inside() { # COMMAND…
    scripts/vm_exec.py "$sockets/agent" \
        /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}

reboot() {
    local before
    before=$(inside cat /proc/sys/kernel/random/boot_id)
    inside systemctl reboot 2>/dev/null || true
    eventually is_rebooted || die "it does not come up again: $(tail -n 20 "$vm/console.log")"
}
is_rebooted() { is_up && [ "$(inside cat /proc/sys/kernel/random/boot_id)" != "$before" ]; }

clean_up() {
    if [ -n "${sockets:-}" ] && [ -e "$sockets/pid" ]; then
        inside systemctl poweroff 2>/dev/null || true
        eventually is_gone || kill -9 "$(cat "$sockets/pid")"
    fi
    end_share
    rm -rf "$root"
}
is_gone() { [ ! -e "$sockets/pid" ]; } # QEMU removes it
