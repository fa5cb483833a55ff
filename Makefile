# RVS. Everything runs on a bare Debian 12 with a Rust toolchain and root.

CARGO ?= cargo
# One profile for tests and demo, so that the tree is built once.
export CARGO

.PHONY: help deps build demo demo-ha demo-failover test lint bench bench-scale bench-micro bench-idle bench-checks bench-sync instructions compare soak e2e differential fuzz clean

help:
	@echo "make demo    build, then watch requests cross rvsd in NAT, DR and TUN mode (1 minute, needs root)"
	@echo "make demo-ha build, then watch a pair with one virtual address take over from each other (1 minute, needs root)"
	@echo "make demo-failover  build, then watch a pair keep all connections while a node is stopped, killed, unplugged (2 minutes, needs root)"
	@echo "make test    lints, unit, property and end-to-end tests (needs root)"
	@echo "make bench   nanoseconds per packet against testpmd (needs root and hugepages, which it sets up)"
	@echo "make instructions  instructions per packet, counted by callgrind: the same in every run"
	@echo "make bench-scale  start, memory, rule changes and listings with a million servers and ten million connections (needs root)"
	@echo "make bench-micro  parser, table, schedulers and checksums by themselves (criterion)"
	@echo "make bench-sync  connections a second that the master of synchronisation announces on one core"
	@echo "make bench-idle   what a worker with nothing to do takes, and how late the first packet is (needs root)"
	@echo "make compare requests per second and latency next to nftables, HAProxy and nginx in the same namespaces (needs root)"
	@echo "make soak SECONDS=1800    new flows, expiries, rule changes without pause, then 50 kills; nothing may add up or be lost (needs root)"
	@echo "make build   rvsd and rvsadm in target/debug"
	@echo "make lint    formatting and lints"
	@echo "make e2e     end-to-end tests only; make e2e ONLY=forwarding.nat for some"
	@echo "make differential SECONDS=600 SEED=1    random rules and packets through the kernel's IPVS (emulated) and through RVS"
	@echo "make fuzz SECONDS=600    random bytes and stories for the data plane (libFuzzer, stable toolchain)"
	@echo "make deps    install the Debian packages that all of this needs"

deps:
	@.ci/install-deps build demo test

build:
	@.ci/install-deps build
	$(CARGO) build --workspace --bins

demo:
	@.ci/install-deps demo
	$(CARGO) build --bins
	@/usr/bin/python3 -u control/tests/e2e/demo.py

demo-ha:
	@.ci/install-deps demo
	$(CARGO) build --bins
	@/usr/bin/python3 -u control/tests/e2e/demo_ha.py

demo-failover:
	@.ci/install-deps demo
	@/usr/bin/python3 control/tests/e2e/other_layout.py
	$(CARGO) build --bins
	@/usr/bin/python3 -u control/tests/e2e/demo_failover.py

test:
	@.ci/install-deps test
	@/usr/bin/python3 -u control/tests/e2e/suite.py

lint:
	@.ci/install-deps build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) fetch --locked --manifest-path dataplane/fuzz/Cargo.toml

# DPDK's own floor on x86-64 is lower; v3 (AVX2, since 2013) is what a release is best built for.
# Everything but the bench stays portable. Options: make bench BENCH="--quick --enforce".
bench:
	@.ci/install-deps bench
	RUSTFLAGS="-C target-cpu=x86-64-v3" $(CARGO) run --release -p bench --target-dir target/v3 -- $(BENCH)

# Options: make bench-scale SCALE="--quick --only rules".
bench-scale:
	@.ci/install-deps bench
	RUSTFLAGS="-C target-cpu=x86-64-v3" $(CARGO) build --release --workspace --bins --target-dir target/v3
	@/usr/bin/python3 -u bench/scale/scale.py $(SCALE)

# Options: make bench-micro MICRO="--against FILE.json", and MICRO_ONLY="table" for some.
bench-micro:
	@.ci/install-deps build
	CRITERION_HOME=$(CURDIR)/target/v3/criterion RUSTFLAGS="-C target-cpu=x86-64-v3" $(CARGO) bench -p bench --bench micro --target-dir target/v3 -- $(MICRO_ONLY)
	@/usr/bin/python3 bench/micro.py $(MICRO)

# Options: make bench-idle IDLE="--seconds 5".
bench-idle:
	@.ci/install-deps test
	RUSTFLAGS="-C target-cpu=x86-64-v3" $(CARGO) build --release --workspace --bins --target-dir target/v3
	@RVS_BIN=target/v3/release /usr/bin/python3 -u bench/idle/idle.py $(IDLE)

# The same number in every run, whatever else the machine does: for comparing two commits.
instructions:
	@.ci/install-deps bench
	RUSTFLAGS="-C target-cpu=x86-64-v3" $(CARGO) build --release -p bench --target-dir target/v3
	@for row in nat-request nat-reply dr-established tun-established nat6-request nat6-reply nat-request-sync nat-request-far nat-request-checked; do \
	  valgrind --tool=callgrind --callgrind-out-file=target/v3/callgrind.$$row --collect-atstart=no \
	    --toggle-collect='bench::walk::counted*' target/v3/release/bench --walk $$row 2>&1 \
	  | awk -v row=$$row '/Collected/ {printf "%-18s %7.1f instructions a packet\n", row, $$4 / 65536}'; \
	done

# How many health checks a second, at which cost (CHECKS: servers, milliseconds between their checks, seconds); then
# whether adverts stay on time next to them, with a full table, listings and reloads (ADVERTS="--seconds 60 --only tcp").
bench-checks:
	@.ci/install-deps test
	$(CARGO) run --release -p control --example checks -- $(CHECKS)
	$(CARGO) build --release --workspace --bins
	@RVS_BIN=$${CARGO_TARGET_DIR:-$(CURDIR)/target}/release /usr/bin/python3 -u bench/checks/checks.py $(ADVERTS)

# How many connections a second the master of synchronisation announces on one core (SYNC: rate, seconds, key file).
bench-sync:
	$(CARGO) run --release -p control --example announce -- $(SYNC)

e2e:
	@.ci/install-deps test
	@/usr/bin/python3 control/tests/e2e/other_layout.py
	$(CARGO) build --workspace --bins --example replay
	@/usr/bin/python3 -u control/tests/e2e/run.py $(ONLY)

# Options: make compare COMPARE="--seconds 5 --rounds 1 --only rvs haproxy".
compare:
	@.ci/install-deps compare
	$(CARGO) build --workspace --bins
	@/usr/bin/python3 -u bench/compare/compare.py $(COMPARE)

SECONDS ?= 600
KILLS ?= 50
SEEDS ?= 3000
soak:
	@.ci/install-deps test
	$(CARGO) build --workspace --bins
	@# In parts: the tables of a part stay allocated until it ends, some 2.5 MB a seed.
	from=$$(date +%s); for part in $$(seq 0 200 $$(($(SEEDS) - 1))); do \
	  RVS_FROM=$$((from + part)) RVS_SEEDS=200 $(CARGO) test -q -p control --test cluster clusters -- --nocapture || exit 1; \
	done
	@nice /usr/bin/python3 -u control/tests/e2e/soaking.py --seconds $(SECONDS) --kills $(KILLS)

differential:
	@.ci/install-deps test
	$(CARGO) build -p control --example replay
	@/usr/bin/python3 -u control/tests/e2e/guest/differential.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

fuzz:
	@.ci/install-deps build
	@dataplane/fuzz/run $(SECONDS)

clean:
	$(CARGO) clean
