#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages whose command or header is missing; downloads nothing where nothing is. Knows no versions.
# With the argument `bench`, those that only `make bench` needs, too; with `image`, only those that build the image.
set -eu

missing=
want() {
	command -v "$1" >/dev/null || [ -e "$1" ] || missing="$missing $2"
}

want clang clang
want g++ g++
want aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
want mmdebstrap mmdebstrap
want /usr/include/bpf/libbpf.h libbpf-dev
want /usr/include/linux/bpf.h linux-libc-dev
if [ "${1:-}" != image ]; then
	want clang-format clang-format
	want ip iproute2
	want bpftool bpftool
	want setpriv util-linux
	want curl curl
	want dig bind9-dnsutils
	want ping iputils-ping
	want openssl openssl
	want unzip unzip
	want runc runc
	want qemu-system-x86_64 qemu-system-x86
	want busybox busybox-static
	want cpio cpio
	want readelf binutils
	want /usr/sbin/nginx nginx
	want /usr/sbin/dnsmasq dnsmasq-base
	want /usr/sbin/unbound unbound
	want musl-gcc musl-tools
	want python3 python3-minimal
	want promtool prometheus
fi
if [ "${1:-}" = bench ]; then
	want /usr/sbin/nft nftables
	want /usr/sbin/iptables iptables
	want /usr/sbin/ipset ipset
	want dnsperf dnsperf
fi

[ -n "$missing" ] || exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get -q update </dev/null

# Debian's nginx and prometheus start a service when they are installed and at each boot; tests and the demo run their own.
# policy-rc.d (invoke-rc.d(8)): 101 forbids whatever is asked.
policy=/usr/sbin/policy-rc.d
services=
for package in $missing; do
	case $package in nginx | prometheus) services="$services $package" ;; esac
done
if [ -n "$services" ] && [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 130' INT TERM
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
# shellcheck disable=SC2086 # a list of words
apt-get -q install -y --no-install-recommends $missing </dev/null
for service in $services; do
	update-rc.d "$service" disable
done
