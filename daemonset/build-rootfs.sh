#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the root file system of the image from Debian's packages and what `make` built: no shell, no package manager, no compiler.
# The Dockerfile and the tests both use it, so that what is tested is what is shipped. Knows nothing of containers.
set -eu

usage() {
	cat >&2 <<-END
		usage: build-rootfs.sh libraries ARCH TAR            shared libraries and their licences (Debian's names: amd64, arm64)
		       build-rootfs.sh rootfs DIR TAR NODE ADDON     DIR anew: those libraries, this Node and addon, and the rest of build/
	END
	exit 2
}

# --variant=extract unpacks packages and runs none of their scripts, so any architecture will do.
libraries() {
	arch=$1 tar=$2
	mmdebstrap --quiet --variant=extract --architectures="$arch" --include=libbpf1,libstdc++6,libatomic1 bookworm "$tar.new.tar"
	mv "$tar.new.tar" "$tar"
}

rootfs() {
	root=$1 tar=$2 node=$3 addon=$4
	rm -rf "$root"
	mkdir -p "$root"
	# var/lib/dpkg/status stays, by which scanners know the packages. Of etc, nothing: it holds this machine's name and resolvers.
	tar -xf "$tar" -C "$root" --exclude='./dev/*' --exclude='./etc/*' --exclude='./var/cache' --exclude='./var/log' \
		--exclude='./var/lib/apt' --exclude='./var/lib/dpkg/[!s]*' --exclude='./var/lib/dpkg/status-old' \
		--exclude='*/gconv/*' --exclude='./usr/share/[!d]*' \
		--exclude='*/libc_malloc_debug.so*' --exclude='*/libmemusage.so' --exclude='*/libpcprofile.so'

	# Where the kernel's and the node's own file systems are mounted; the root itself is mounted read-only.
	for folder in dev proc sys run/postern tmp usr/bin usr/lib/postern var/lib/postern; do mkdir -p "$root/$folder"; done
	ln -sfn /run "$root/var/run"
	printf 'root:x:0:0:root:/:/usr/sbin/nologin\n' >"$root/etc/passwd"
	printf 'root:x:0:\n' >"$root/etc/group"
	# Without it glibc asks DNS before /etc/hosts, in which kubelet writes.
	printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"

	install -m 755 "$node" "$root/usr/bin/node"
	lib=$root/usr/lib/postern
	mkdir -p "$lib/bin" "$lib/build/generated" "$root/usr/share/doc/postern"
	cp -r build/bundle/dist "$lib/dist"
	cp package.json "$lib/"
	cp build/postern.bpf.o "$lib/build/"
	cp "$addon" "$lib/build/postern.node"
	cp build/generated/*.json "$lib/build/generated/"
	cp LICENSE build/bundle/THIRD-PARTY-LICENSES "$root/usr/share/doc/postern/"
	cp bpf/LICENSE "$root/usr/share/doc/postern/LICENSE.bpf"
	# The kernel reads the first line; there is no shell that could.
	printf '#!/usr/bin/node --max-semi-space-size=2\nimport "../dist/cli/main.js";\n' >"$lib/bin/postern.js"
	chmod 755 "$lib/bin/postern.js"
	ln -s ../lib/postern/bin/postern.js "$root/usr/bin/postern"
}

[ $# -gt 0 ] || usage
command=$1
shift
case $command-$# in
libraries-2) libraries "$@" ;;
rootfs-4) rootfs "$@" ;;
*) usage ;;
esac
