# Everything a fresh Debian 12 with a Rust toolchain needs to build, test and show Tidegate.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

CARGO ?= cargo
# One profile for programs and tests, so that nothing is built twice.
BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tidegate/tools
CARGO_DENY_VERSION := 0.20.2
LAB := tests/lab/scripts/lab

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: packages
packages: ## Install the Debian packages that are missing (asks for root)
	@deploy/host/packages

.PHONY: build
build: packages ## Build every program
	@$(CARGO) build --locked --workspace

.PHONY: guest
guest: packages ## Fetch the guest kernel and pack the guest image
	@tests/lab/scripts/guest-image

.PHONY: demo
demo: build guest ## Migrate real guests twice, with sessions open; report in target/demo
	@$(LAB) $(BUILT)/tidegate-demo

.PHONY: test
test: build guest ## Run every test
	@$(CARGO) test --locked --workspace --no-run
	@$(LAB) $(CARGO) test --locked --offline --workspace
	@$(LAB) tests/blackbox/run --programs $(BUILT)

.PHONY: blackbox
blackbox: packages ## Test a running box from outside with scapy and real traffic (BLACKBOX="NAME …")
	@$(CARGO) build --locked -p tidegate-switch -p tidegate-cli -p tidegate-quic
	@$(LAB) tests/blackbox/run --programs $(BUILT) $(BLACKBOX)

# Hugepages of 2 MiB for `bench`: two programs with buffers for a capture of a million packets.
BENCH_HUGEPAGES ?= 3456
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release

.PHONY: bench-packages
bench-packages:
	@deploy/host/packages --with bench

.PHONY: bench
bench: bench-packages guest ## Measure beside peers (BENCH="--only NAME …"); target/bench/results.json
	@$(CARGO) build --locked --release -p tidegate-switch -p tidegate-host -p tidegate-perf \
		-p tidegate-pktgen
	@# Peers' heaps get transparent hugepages, as our tables do.
	@TIDEGATE_LAB_HUGEPAGES=$(BENCH_HUGEPAGES) GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
		$(LAB) $(RELEASE)/tidegate-bench $(BENCH)

.PHONY: instructions-program
instructions-program:
	@deploy/host/packages --with instructions
	@$(CARGO) build --locked --release -p tidegate-instructions

.PHONY: check-instructions
check-instructions: instructions-program ## Fail when a packet's instructions have grown by more than 3 %
	@$(RELEASE)/tidegate-instructions check

.PHONY: record-instructions
record-instructions: instructions-program ## Record a packet's instructions for this toolchain
	@$(RELEASE)/tidegate-instructions record

# Seconds for each fuzz target.
FUZZ_SECONDS ?= 600
FUZZ := dataplane/fuzz control/memory/fuzz control/host/fuzz
CARGO_FUZZ_VERSION := 0.13.2

.PHONY: fuzz
fuzz: packages $(TOOLS)/bin/cargo-fuzz ## Fuzz every target (FUZZ_SECONDS=600 each; needs a nightly toolchain)
	@export PATH="$(TOOLS)/bin:$$PATH" CARGO_TARGET_DIR="$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/fuzz"; \
	for fuzz in $(FUZZ); do for target in $$(ls $$fuzz/corpus); do \
		mkdir -p "$$CARGO_TARGET_DIR/found/$$target"; \
		$(CARGO) +nightly fuzz run --fuzz-dir $$fuzz/libfuzzer -O -a $$target \
			"$$CARGO_TARGET_DIR/found/$$target" $$fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=600 -print_final_stats=1; \
		$(CARGO) +nightly fuzz run --fuzz-dir $$fuzz/libfuzzer -O -a $$target -- \
			-merge=1 -max_len=600 $$fuzz/corpus/$$target "$$CARGO_TARGET_DIR/found/$$target"; \
	done; done

.PHONY: check
check: packages $(TOOLS)/bin/cargo-deny ## Formatting, lints, dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	PATH="$(TOOLS)/bin:$$PATH" $(CARGO) deny --locked check bans licenses sources

.PHONY: advisories
advisories: $(TOOLS)/bin/cargo-deny ## Known vulnerabilities in dependencies (fetches the database)
	PATH="$(TOOLS)/bin:$$PATH" $(CARGO) deny --locked check advisories

$(TOOLS)/bin/cargo-fuzz:
	$(CARGO) install cargo-fuzz --version $(CARGO_FUZZ_VERSION) --locked --root $(TOOLS)

$(TOOLS)/bin/cargo-deny:
	$(CARGO) install cargo-deny --version $(CARGO_DENY_VERSION) --locked --root $(TOOLS)

.PHONY: clean
clean: ## Remove everything that was built or downloaded here
	$(CARGO) clean
