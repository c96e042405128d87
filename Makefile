# The front door. Everything here installs what it needs, says what it does, and does it once.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Tools that .ci/setup fetches for this checkout alone; nothing of it is installed into the system.
export PATH := $(CURDIR)/target/tools/bin:$(CURDIR)/target/venv/bin:$(PATH)

.PHONY: help
help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup-build ## a toy shop, Weir before it, a steady load and a live summary (ARGS="--for 20s")
	@echo "demo: building Weir without optimisation, which starts sooner: some minutes the first time, seconds after that"
	cargo build --bin weir
	@cargo run --quiet --bin weir -- demo $(ARGS)

.PHONY: release
release: setup-build ## an optimised target/dist/weir, its symbols beside it in weir.debug
	cargo build --release
	@mkdir -p target/dist
	objcopy --only-keep-debug target/release/weir target/dist/weir.debug
	objcopy --strip-all --add-gnu-debuglink=target/dist/weir.debug target/release/weir target/dist/weir
	@ls -l target/dist

.PHONY: test
test: setup-test ## all tests: doc tests, then unit and integration tests
	cargo test --quiet --doc
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo "cargo nextest run $(ARGS)"; cargo nextest run $(ARGS); \
	else \
		echo "cargo test --lib --bins --tests $(ARGS)"; cargo test --lib --bins --tests $(ARGS); \
	fi

.PHONY: bench
bench: setup-bench ## Weir beside nginx, HAProxy and Envoy: 45 minutes (ARGS="--quick": three; ARGS=--help)
	@python3 -B benches/run.py $(ARGS)

.PHONY: mutants
mutants: setup-build ## faults that the tests of the pure cores have to find, one by one: 10 minutes (ARGS=WORD: those)
	@.ci/cores mutants $(ARGS)

.PHONY: miri
miri: ## the cores' tests of threads under Miri: some minutes (needs nightly, with the components miri and rust-src)
	@.ci/cores miri

.PHONY: check
check: setup-check ## formatting, lints, documentation, licences and banned crates
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps
	.ci/deny

# ---- what the targets above need, installed where it is missing -------------------------------------

.PHONY: setup-build setup-test setup-check setup-bench
setup-build: target/.setup-build ## what a build needs
setup-test: target/.setup-test   ## what the tests need as well
setup-check: target/.setup-check ## what the checks need as well
setup-bench: target/.setup-bench ## what the bench needs as well

target/.setup-build target/.setup-test target/.setup-check target/.setup-bench: target/.setup-%: .ci/setup tests/clients/requirements.txt
	@mkdir -p target
	.ci/setup $*
	@touch $@
