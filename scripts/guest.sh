# shellcheck shell=bash
# A small Linux for the tests that need one with qemu's guest agent, out of Debian's packages: its kernel, busybox
# and the agent, nothing installed. Sourced, never run.

# linux_guest DIR [PROGRAM]: makes DIR/vmlinuz and DIR/initrd, with another program in it, unless they are there
linux_guest() {
    local dir=$1 work root kernel module
    [[ -s $dir/vmlinuz && -s $dir/initrd && $dir/initrd -nt tests/guest/init ]] && return 0
    work=$(mktemp -d) && root="$work/root" && mkdir -p "$dir" "$root"/{bin,sbin,modules,usr/sbin} || return 1
    kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
    (cd "$work" && apt-get download -qq "$kernel" && dpkg-deb -x "$kernel"_*.deb kernel) >/dev/null 2>&1 || return 1
    for module in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console; do
        find "$work/kernel/lib/modules" -name "$module.ko" -exec cp {} "$root/modules/" \;
    done
    cp /bin/busybox "$root/bin/busybox" && cp /usr/sbin/qemu-ga "$root/usr/sbin/" || return 1
    [[ -z ${2:-} ]] || cp "$2" "$root/usr/sbin/" || return 1
    local library
    for library in $(ldd "$root"/usr/sbin/* | grep -o '/[^ ]*' | grep -v ':$' | sort -u); do
        install -D "$library" "$root$library" || return 1
    done
    install -m 0755 tests/guest/init "$root/init"
    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) | gzip -1 >"$dir/initrd.new" || return 1
    cp "$work"/kernel/boot/vmlinuz-* "$dir/vmlinuz" && mv "$dir/initrd.new" "$dir/initrd"
    rm -rf "$work"
}
