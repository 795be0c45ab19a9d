# shellcheck shell=bash
# What vm-test and boot-test share: Debian's kernels, and a virtual machine that boots one of them with
# a folder of this machine as its root. Sourced, at the top of the tree; $build is the build folder.
#
# The machine is emulated (TCG: no /dev/kvm is needed) and has no disk and no network. Its root comes
# over virtiofs, so that the programs in it are those of this machine, unchanged.

downloads=${build:?}/vm
vm=${VM_FOLDER:-$downloads} # what one machine needs, and its console.log
memory=${memory:-1024} # MiB
cpus=${cpus:-2}
writable=0 # 1: the machine changes the folder that is its root; else changes are kept in memory
virtiofsd=/usr/lib/qemu/virtiofsd

check_vm_tools() {
    local tool
    for tool in qemu-system-x86_64 "$virtiofsd" busybox cpio dpkg-deb depmod modprobe xz; do
        command -v "$tool" >/dev/null || die "$tool is missing: scripts/deps install test"
    done
}

# Two at once would write the same files; with a VM_FOLDER of its own, each may run beside others.
lock_machine() {
    mkdir -p "$vm"
    exec 8>"$vm/lock"
    flock -n 8 || die "another virtual machine of $vm runs: wait for it"
}

# The release of Debian that has this kernel.
release_of() { # KERNEL
    case "$1" in
    5.10) echo bullseye ;;
    6.1) echo bookworm ;;
    6.12) echo bookworm-backports ;;
    *) die "there is no kernel $1 here: 5.10, 6.1, 6.12" ;;
    esac
}

# apt's options for a release. What this machine's apt does not know yet gets lists of its own, from the
# same mirror.
apt_for() { # RELEASE → $apt
    local lists=$downloads/apt/$1 mirror
    apt=(-o APT::Sandbox::User="$(id -un)")
    [ "$1" != bookworm ] || return 0
    # shellcheck disable=SC2016 # apt's own
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' |
        head -n 1)
    [ -n "$mirror" ] || die "apt has no lists of Debian bookworm: apt-get update, or it is no Debian"
    mkdir -p "$lists/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$lists.list"
    apt+=(-o Dir::Etc::sourcelist="$PWD/$lists.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$PWD/$lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
}

# Puts the kernel's package, extracted, into $downloads/kernel-VERSION: once.
fetch_kernel() { # VERSION → $kernel, the folder; $release, as of uname
    kernel=$downloads/kernel-$1
    mkdir -p "$downloads"
    exec 7>"$downloads/kernel-$1.lock"
    flock 7
    [ -d "$kernel" ] || download_kernel "$1"
    exec 7>&-
    release=$(ls "$kernel/lib/modules")
}

# linux-image-cloud-amd64 is an empty package that depends on the present one.
download_kernel() { # VERSION
    local release_name package
    release_name=$(release_of "$1")
    apt_for "$release_name"
    # A fresh machine may have no package lists yet, or old ones.
    apt-get "${apt[@]}" update -q || true
    package=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 |
        awk '/Depends: linux-image/ { print $2; exit }')
    [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64 in $release_name: apt-get update"
    say "downloading $package"
    (cd "$downloads" && apt-get "${apt[@]}" download -q "$package") ||
        die "cannot download $package: apt-get update may help"
    rm -rf "$kernel.new"
    dpkg-deb -x "$(find "$downloads" -maxdepth 1 -name "${package}_*.deb" | head -n 1)" "$kernel.new"
    rm -f "$downloads/$package"_*.deb
    depmod --basedir "$kernel.new" "$(ls "$kernel.new/lib/modules")"
    mv "$kernel.new" "$kernel"
}

# The modules named, and those that they need, in the order of loading.
put_modules() { # FOLDER MODULE…
    local folder=$1 file number=100
    shift
    mkdir -p "$folder"
    modprobe --dirname "$kernel" --set-version "$release" --show-depends --all "$@" >"$folder.list" ||
        die "the kernel $release lacks one of these modules: $*"
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' "$folder.list" | while read -r file; do
        number=$((number + 1))
        case "$file" in
        *.xz) xz -dc "$file" >"$folder/$number-$(basename "$file" .xz)" ;;
        *) cp "$file" "$folder/$number-$(basename "$file")" ;;
        esac
    done
    rm "$folder.list"
}

# A small archive of busybox and modules, which mounts the root and starts the init there.
make_initramfs() { # INIT [ARGUMENT…]
    local root=$vm/initramfs applet
    rm -rf "$root"
    mkdir -p "$root"/{bin,changes,dev,proc,root,share}
    cp "$(command -v busybox)" "$root/bin/"
    for applet in sh mount umount insmod mkdir switch_root poweroff; do
        ln -s busybox "$root/bin/$applet"
    done
    put_modules "$root/modules" virtio_pci virtiofs overlay
    [ "$writable" = 0 ] || touch "$root/writable"
    echo "exec switch_root /root ${*@Q}" >"$root/go-on"
    install -m 0755 tests/vm/initramfs "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$vm/initramfs.gz"
}

# Shares a folder with the machine that is booted next: virtiofsd ends with that machine.
share() { # FOLDER [COMMAND…]: that runs virtiofsd
    local folder=$1 end=$((SECONDS + 10)) cache=always
    # What is changed here is to be seen there.
    [ "$writable" = 0 ] || cache=auto
    shift
    sockets=$(mktemp -d /tmp/drover-vm-XXXXXX) # short: a socket's path has at most 107 letters
    "$@" "$virtiofsd" --socket-path="$sockets/root" -o source="$folder" -o cache="$cache" \
        -o sandbox=chroot -o xattr -o log_level=err >"$vm/virtiofsd.log" 2>&1 </dev/null &
    virtiofsd_pid=$!
    until [ -S "$sockets/root" ]; do
        [ $SECONDS -lt $end ] || die "virtiofsd does not start: $(cat "$vm/virtiofsd.log")"
        sleep 0.1
    done
}
end_share() {
    [ -n "${sockets:-}" ] || return 0
    kill "$virtiofsd_pid" 2>/dev/null || true
    rm -rf "$sockets"
}

# The machine, in the foreground; standard output is its console. The kernel keeps off cmpxchg16b, because
# 6.12 does not start on what Debian 12's qemu makes of it (a double fault in its memory allocator);
# HAProxy needs it. Without randomized addresses qemu need not translate each program and library anew in
# each process (a third of the time), and the time comes from the processor instead of from a device.
machine() { # COMMAND-LINE TIME-LIMIT [OPTION OF QEMU…]
    local append=$1 limit=$2
    shift 2
    timeout --foreground --kill-after=5 "$limit" qemu-system-x86_64 \
        -accel tcg,thread=multi -cpu max -smp "$cpus" -m "$memory" \
        -machine q35,memory-backend=memory \
        -object memory-backend-memfd,id=memory,size="${memory}M",share=on \
        -chardev socket,id=root,path="$sockets/root" -device vhost-user-fs-pci,chardev=root,tag=root \
        -display none -nic none -serial stdio "$@" \
        -kernel "$(find "$kernel"/boot -name 'vmlinuz-*' | head -n 1)" \
        -initrd "$vm/initramfs.gz" \
        -append "console=ttyS0 quiet loglevel=3 panic=-1 clearcpuid=cx16 norandmaps tsc=reliable $append" </dev/null | sed -u 's/\r$//'
}
