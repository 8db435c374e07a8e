#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Another kernel to test on: Debian's own, unpacked and not installed, and an initramfs that makes a machine of this one's files.
# Usage: build-guest.sh FOLDER: makes FOLDER/vmlinuz and FOLDER/initramfs. Knows no test.
set -eu

# What that kernel has as modules and the guest needs, each after those that it depends on: the share of files, then what tests use.
modules='
drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci_legacy_dev
drivers/virtio/virtio_pci fs/netfs/netfs fs/fscache/fscache net/9p/9pnet net/9p/9pnet_virtio fs/9p/9p fs/overlayfs/overlay
drivers/net/veth net/ipv4/inet_diag net/ipv4/tcp_diag net/sched/sch_ingress net/sched/cls_bpf
'

here=$(cd "$(dirname "$0")" && pwd)
folder=$1
rm -rf "$folder/new"
mkdir -p "$folder/new/initramfs/modules"
cd "$folder/new"

# The metapackage names the newest; a bare machine has no list yet.
download() {
	package=$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: //p')
	[ -n "$package" ] && apt-get -q download "$package"
}
download || { apt-get -q update && download; }
dpkg-deb --fsys-tarfile ./linux-image-*.deb | tar -x --wildcards './boot/vmlinuz-*' './lib/modules/*.ko'

number=10
for module in $modules; do
	cp ./lib/modules/*/kernel/"$module".ko "initramfs/modules/$number-${module##*/}.ko"
	number=$((number + 1))
done
mkdir -p initramfs/bin initramfs/proc initramfs/dev initramfs/host initramfs/changes initramfs/root
cp "$(command -v busybox)" initramfs/bin/busybox
cp "$here/guest-init.sh" initramfs/init
chmod 755 initramfs/init
(cd initramfs && find . | cpio --quiet -o -H newc) >../initramfs
mv ./boot/vmlinuz-* ../vmlinuz
cd ..
rm -rf new
touch vmlinuz initramfs
