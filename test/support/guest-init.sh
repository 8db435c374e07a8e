#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's first process: this machine's files as they are, changes kept in memory, and the kernel's own mounts; then it runs
# /run/exchange/command and switches the machine off. What it cannot do, it says on the console; guest.ts tells what came of it.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
busybox=/bin/busybox

give_up() {
	echo "guest: $1"
	$busybox poweroff -f
}

$busybox mount -t proc proc /proc || give_up 'no /proc'
$busybox mount -t devtmpfs dev /dev || give_up 'no /dev'
for module in /modules/*; do
	$busybox insmod "$module" || give_up "$module does not load"
done
# cache=loose: nobody changes these files while the guest runs.
$busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host /host || give_up 'no share'
$busybox mount -t tmpfs changes /changes
$busybox mkdir /changes/upper /changes/work
$busybox mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work overlay /root || give_up 'no overlay'
$busybox mount --move /proc /root/proc
$busybox mount --move /dev /root/dev
$busybox mount -t sysfs sys /root/sys
$busybox mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$busybox mount -t bpf bpf /root/sys/fs/bpf
$busybox mount -t tmpfs run /root/run
$busybox mkdir /root/run/exchange
$busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 exchange /root/run/exchange || give_up 'no exchange'
$busybox ip link set lo up
cd /
$busybox chroot /root /bin/sh /run/exchange/command >/root/run/exchange/output 2>&1 </root/dev/null
echo $? >/root/run/exchange/status
$busybox poweroff -f
