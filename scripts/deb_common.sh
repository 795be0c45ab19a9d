# shellcheck shell=bash
# What deb-test and boot-test share: the packages of two versions, and clean Debian roots to install
# them in. Sourced, at the top of the tree; $build is the build folder.

deb=${build:?}/deb
this=$(sed -n 's/^VERSION *:= *//p' Makefile)
next=${this%.*}.$((${this##*.} + 1)) # the same tree, as the version after this one

say() { echo "${0##*/}: $*"; }
die() {
    say "FAILED: $*" >&2
    exit 1
}

patience=30 # seconds

eventually() { # COMMAND…: until it succeeds, for as long as there is patience
    local end=$((SECONDS + patience))
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}

need_root_and() { # TOOL…
    [ "$(id -u)" = 0 ] || die "needs root: sudo scripts/${0##*/}"
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is missing: scripts/deps install deb"
    done
}

package() { # VERSION
    echo "$deb/drover_$1_$(dpkg --print-architecture).deb"
}

build_packages() { # unless they are as new as the tree
    local version
    for version in "$this" "$next"; do
        [ ! -e "$deb/$version.ok" ] ||
            [ -n "$(find Makefile README.md bpf debian include userspace -newer "$deb/$version.ok" -print -quit)" ] ||
            continue
        scripts/make-deb "$version" || die "no package of version $version"
    done
}

# What is not there yet is installed with this machine's own mirror and settings of apt. Once.
clean_root() { # NAME [PACKAGE…]
    local base=$deb/base-$1 mirror
    shift
    [ -e "$base.ok" ] && return
    rm -rf "$base"
    # shellcheck disable=SC2016 # apt's own
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' |
        head -n 1)
    [ -n "$mirror" ] || die "apt has no lists of Debian bookworm: apt-get update, or it is no Debian"
    say "debootstrap into $base"
    debootstrap --variant=minbase bookworm "$base" "$mirror" >"$base.log" 2>&1 ||
        { tail -n 20 "$base.log"; die "debootstrap has failed"; }
    apt-config dump Acquire >"$base/etc/apt/apt.conf.d/90acquire"
    [ $# = 0 ] || apt_install "$base" "$@"
    touch "$base.ok"
}

apt_install() { # ROOT PACKAGE…
    local root=$1
    shift
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -q -y --no-install-recommends "$@" \
        >"$root.log" 2>&1 || { tail -n 20 "$root.log"; die "apt-get install $* has failed"; }
}

fresh_root() { # NAME → the path of a copy
    rm -rf "$deb/root-$1"
    cp -a --reflink=auto "$deb/base-$1" "$deb/root-$1"
    echo "$deb/root-$1"
}
