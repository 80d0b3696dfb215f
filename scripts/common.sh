# shellcheck shell=bash
# What run.sh, stop.sh and test.sh share: packages, cargo, libvirt, our own process by its pid.
# Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pid_file="$root/run/ovirt-gateway.pid"
log_file="$root/log/ovirt-gateway.log"

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }

build_packages=(gcc)
demo_packages=(qemu-utils qemu-system-x86 libvirt-daemon-system libvirt-clients iproute2)
test_packages=(
    libnbd-bin nbdkit libxml2-utils curl python3-venv python3-dev pkg-config
    libcurl4-openssl-dev libssl-dev libxml2-dev libxslt1-dev mariadb-server-core mariadb-client-core postgresql
    busybox-static qemu-guest-agent e2fsprogs ovmf swtpm swtpm-tools nbd-server qemu-block-extra
)
# a test that needs one of these says loudly that it could not run
optional_packages=(chromium)

# installed PACKAGE: whether dpkg has it, fully configured
installed() { [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) == 'install ok installed' ]]; }

# packages PACKAGE...: installs what is missing, or says how
packages() {
    command -v dpkg-query >/dev/null || { say "not Debian: make sure these are installed: $*"; return 0; }
    local missing=() package
    for package in "$@"; do installed "$package" || missing+=("$package"); done
    ((${#missing[@]})) || return 0
    [[ $(id -u) == 0 ]] || die "missing packages; run: sudo apt-get install -y --no-install-recommends ${missing[*]}"
    say "installing ${missing[*]}"
    apt-get update -qq || say "apt-get update failed; trying with the lists there are"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "could not install ${missing[*]}"
}

# optional PACKAGE...: installs what can be installed, and goes on without the rest
optional() {
    command -v dpkg-query >/dev/null && [[ $(id -u) == 0 ]] || return 0
    local package
    for package in "$@"; do
        installed "$package" && continue
        say "installing $package, if it can be had"
        DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 ||
            say "!! no $package: what needs it is skipped"
    done
}

cargo_here() {
    command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || die "no cargo found; install a Rust toolchain (1.94 or newer) from https://rustup.rs"
}

# The dev profile: a cold build takes a fraction of a release build's time, and the dependencies,
# where the work is done, are optimised in it as well. OVIRT_GATEWAY_PROFILE=release for a service.
build() {
    cargo_here
    local profile=${OVIRT_GATEWAY_PROFILE:-dev} folder=debug
    [[ $profile == dev ]] || folder=$profile
    (cd "$root" && cargo build --quiet --locked --profile "$profile" --bin ovirt-gateway) || die "the build failed"
    binary="${CARGO_TARGET_DIR:-$root/target}/$folder/ovirt-gateway"
}

# ours PID: whether that process is this program, whatever became of the number meanwhile
ours() {
    [[ $1 =~ ^[0-9]+$ ]] || return 1
    local exe
    exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
    [[ $(basename "${exe% (deleted)}") == ovirt-gateway ]]
}

# service_pid: the pid of the running service, if there is one
service_pid() {
    local pid
    [[ -r $pid_file ]] && read -r pid <"$pid_file" && ours "$pid" && printf '%s\n' "$pid"
}

libvirt_answers() { timeout 20 virsh -c qemu:///system list >/dev/null 2>&1; }

# libvirt: makes qemu:///system answer; what it starts is noted in started_pids and ended by libvirt_stop
started_pids=()
# /dev/kvm as Debian's udev rule leaves it. Where no udev runs it stays closed to qemu's user, and then
# libvirt asks qemu anew what it can, for half a minute before each start.
kvm_device() {
    [[ $(id -u) == 0 && -c /dev/kvm && ! -d /run/udev ]] || return 0
    [[ $(stat -c %a:%G /dev/kvm) == 600:root ]] && getent group kvm >/dev/null || return 0
    chgrp kvm /dev/kvm && chmod 0660 /dev/kvm
}

libvirt() {
    kvm_device
    libvirt_answers && return 0
    [[ $(id -u) == 0 ]] || die "libvirt does not answer; run: sudo systemctl start libvirtd (and join the group libvirt)"
    say "libvirt does not answer: starting it for now"
    mkdir -p "$root/run"
    local name
    for name in virtlogd libvirtd; do
        # a pid file of an earlier run may name somebody else's process by now
        rm -f "$root/run/$name.pid"
        # one may be running already while the other is not: then its socket is taken, and it stays
        if "$name" -d -p "$root/run/$name.pid" 2>>"$root/run/$name.log" && [[ -r $root/run/$name.pid ]]; then
            started_pids=("$(<"$root/run/$name.pid")" "${started_pids[@]}")
        else
            say "$name did not start (see run/$name.log)"
        fi
    done
    for _ in {1..50}; do libvirt_answers && return 0; sleep 0.2; done
    die "libvirt still does not answer; see run/libvirtd.log"
}

libvirt_stop() {
    local pid
    for pid in "${started_pids[@]}"; do kill "$pid" 2>/dev/null; done
    started_pids=()
}
