#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages whose command or header is missing; downloads nothing where nothing is. Knows no versions.
# With the argument `bench`, those that only `make bench` needs, too.
set -eu

missing=
want() {
	command -v "$1" >/dev/null || [ -e "$1" ] || missing="$missing $2"
}

want clang clang
want clang-format clang-format
want g++ g++
want ip iproute2
want setpriv util-linux
want curl curl
want dig bind9-dnsutils
want ping iputils-ping
want /usr/include/bpf/libbpf.h libbpf-dev
want /usr/include/linux/bpf.h linux-libc-dev
if [ "${1:-}" = bench ]; then
	want /usr/sbin/nft nftables
	want /usr/sbin/iptables iptables
	want /usr/sbin/ipset ipset
fi

[ -n "$missing" ] || exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get -q update </dev/null
# shellcheck disable=SC2086 # a list of words
apt-get -q install -y --no-install-recommends $missing </dev/null
