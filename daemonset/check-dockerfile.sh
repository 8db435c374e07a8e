#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Does the Dockerfile, as it stands, come to the files that `make image-ARCH` made and the tests ran? By Debian's buildah, on a base of
# Debian's own packages, so that no registry of images is asked. Knows nothing of what is inside.
set -eu

[ $# -eq 2 ] || {
	echo 'usage: check-dockerfile.sh ARCH DIR    DIR: what `make image-ARCH` made; from the root of the repository' >&2
	exit 2
}
arch=$1 wanted=$2
command -v buildah >/dev/null || {
	echo 'buildah is missing: apt-get install --no-install-recommends buildah' >&2
	exit 1
}
work=$(mktemp -d)
buildah() {
	command buildah --root "$work/storage" --runroot "$work/run" --storage-driver overlay "$@"
}
clean() {
	buildah rm --all >/dev/null 2>&1 || :
	buildah rmi --all --force >/dev/null 2>&1 || :
	umount "$work/storage/overlay" 2>/dev/null || :
	rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

# Whom this machine trusts, the base trusts, too: packages may come through a proxy.
trusted=/usr/local/share/ca-certificates/builder.crt
mmdebstrap --quiet --variant=minbase bookworm "$work/base.tar"
base=$(buildah from scratch)
buildah add --quiet "$base" "$work/base.tar" / >/dev/null
buildah copy --quiet "$base" /etc/ssl/certs/ca-certificates.crt $trusted >/dev/null
buildah config --env NODE_EXTRA_CA_CERTS=$trusted "$base"
buildah commit --quiet --rm "$base" docker.io/library/debian:bookworm >/dev/null
rm "$work/base.tar"

buildah bud --pull-never --isolation chroot --network host --build-arg TARGETARCH="$arch" \
	--file daemonset/Dockerfile --tag localhost/postern .
made=$(buildah mount "$(buildah from --pull-never localhost/postern)")

# Names, kinds, modes and owners; contents but for the BPF object, whose debugging information names the folder that it was built in.
list() {
	(cd "$1" && find . -mindepth 1 -printf '%p %y %m %U:%G %l\n' | sort)
}
list "$wanted" >"$work/wanted"
list "$made" >"$work/made"
diff -u "$work/wanted" "$work/made"
diff -r --no-dereference --exclude=postern.bpf.o "$wanted" "$made"
echo "the Dockerfile makes what $wanted is"
