# The repository's entry points. Everything is built in .venv, target and build; outside the clone only hyperpy's
# cache folder and, as root, missing Debian packages are touched. What passed is stamped below build/passed, so that
# the next `make test` repeats only what changed; `make forget` drops the stamps.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PYTHON := $(BIN)/python
PASSED := build/passed
REPORTS := build/reports
export PATH := $(BIN):$(PATH):$(HOME)/.cargo/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export VIRTUAL_ENV := $(CURDIR)/$(VENV)

find = $(shell find $(wildcard $(1)) -type f $(2) 2>/dev/null | grep -v __pycache__)
RUST := $(wildcard Cargo.toml Cargo.lock) $(call find,crates benches,\( -name '*.rs' -o -name Cargo.toml \))
FUZZ := $(wildcard fuzz/Cargo.toml fuzz/Cargo.lock scripts/fuzz.py) $(call find,fuzz/fuzz_targets fuzz/python fuzz/regressions)
CODE := $(call find,python,\( -name '*.py' -o -name '*.pyi' \))
TESTS := $(FUZZ) $(call find,tests examples benches scripts docs,\( -name '*.py' -o -name '*.md' -o -name '*.S' -o -name '*.c' -o -name '*.toml' \))
PLAIN_TESTS := $(wildcard tests/unit tests/kvm tests/docs)
# What the demo and the lab's tests boot: fetched here, since the lab has no network.
GUESTS := linux-image-amd64/bookworm linux-image-cloud-amd64/bookworm-backports memtest86+/bookworm \
  xen-hypervisor-4.17-amd64/bookworm gnumach-image-1.8-486/bookworm seabios/bookworm

##@ Use
.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build guests ## Install what is missing, build, and run several operating systems from one script
	@$(BIN)/hyperpy lab --timeout 900 -- $(PYTHON) examples/demo.py

.PHONY: setup
setup: $(VENV)/.system $(VENV)/.tools ## Install the tools: Debian packages (as root) and .venv

.PHONY: build
build: $(VENV)/.built ## Build the native module into .venv, optimized

.PHONY: guests
guests: $(VENV)/.system ## Fetch the kernels that the demo and the tests boot
	@$(PYTHON) scripts/fetch_guests.py $(GUESTS)

.PHONY: fuzz-build
fuzz-build: build ## Build the native module so that the fuzzer sees which code of stock devices runs; `make build` after it goes back
	@rm -f python/hyperpy/*.so $(VENV)/.built
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/scripts/rustc-with-counters $(BIN)/maturin develop --release --quiet --features fuzz-coverage

##@ Check
.PHONY: test
test: lint test-rust test-asan test-fuzz test-speed test-python test-wheel test-lab ## Run every check and test; fails on a skip with HYPERPY_NO_SKIPS=1
	@$(PYTHON) scripts/totals.py $(REPORTS)
	@$(PYTHON) scripts/faults.py $(REPORTS)

.PHONY: lint
lint: $(PASSED)/lint-rust $(PASSED)/lint-python $(PASSED)/docs ## Check formatting, lints, types, the stub, reasons of unsafe blocks, and the documentation

.PHONY: test-rust
test-rust: $(PASSED)/rust ## Run the Rust tests

.PHONY: test-asan
test-asan: $(PASSED)/asan ## Run the Rust tests of core and devices under the address sanitizer; wants a nightly toolchain

.PHONY: test-fuzz
test-fuzz: $(PASSED)/fuzz ## Run each fuzz target briefly; those in Rust want a nightly toolchain

.PHONY: test-speed
test-speed: $(PASSED)/speed ## Hold dispatch to its count of instructions per exit, by callgrind

.PHONY: test-python
test-python: $(PASSED)/python ## Run the Python tests that need no lab

.PHONY: test-lab
test-lab: $(PASSED)/lab ## Run the tests on real kernels, and the core set on kvm-amd: one boot of the lab

.PHONY: test-intel
test-intel: build ## Run the core set on kvm-intel, in an emulator that takes a quarter of an hour; not part of `test`
	$(BIN)/hyperpy lab --cpu intel --timeout 3600 --file as --file ld -- \
	  $(PYTHON) -m pytest --quiet -m core -p no:cacheprovider tests/kvm

.PHONY: test-wheel
test-wheel: $(PASSED)/wheel ## Build the wheel, check it, and use it in a fresh environment

.PHONY: fuzz
fuzz: build ## Run each fuzz target for a fixed number of executions, some half an hour; prints what came of each
	@$(PYTHON) scripts/fuzz.py

.PHONY: bench
bench: build guests ## Measure; prints each figure beside its target
	@$(PYTHON) benches/run.py

.PHONY: docs
docs: $(PASSED)/docs ## Build the documentation into build/docs; warnings are errors
	@echo build/docs/index.html

.PHONY: format
format: setup ## Format all code, and write the list of messages
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --quiet .
	$(PYTHON) scripts/messages.py

##@ Deliver
.PHONY: wheel
wheel: $(PASSED)/wheel ## Build dist/*.whl: abi3 for Python 3.11 and later, manylinux_2_28
	@ls -l dist/*.whl

.PHONY: forget
forget: ## Forget what passed, so that `make test` runs everything
	rm -rf $(PASSED) $(REPORTS)

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf $(VENV) build dist target .mypy_cache .ruff_cache .pytest_cache .hypothesis python/hyperpy/*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The steps behind the names.

$(VENV)/.python:
	@scripts/make-venv $(VENV)
	@touch $@

$(VENV)/.system: scripts/system_packages.py | $(VENV)/.python
	@$(PYTHON) scripts/system_packages.py
	@scripts/need-rust
	@touch $@

$(VENV)/.tools: requirements/dev.txt | $(VENV)/.python
	@echo "installing the tools into $(VENV)"
	@$(PYTHON) -m pip install --quiet --requirement $<
	@touch $@

$(VENV)/.built: $(RUST) pyproject.toml $(VENV)/.system $(VENV)/.tools
	@rm -f python/hyperpy/*.so
	$(BIN)/maturin develop --release --quiet
	@touch $@

$(PASSED)/lint-rust: $(RUST) $(VENV)/.system | $(PASSED)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	$(PYTHON) scripts/count_unsafe.py
	@touch $@

$(PASSED)/lint-python: $(CODE) $(TESTS) pyproject.toml $(VENV)/.built | $(PASSED)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	@if [ -d tests/typing ]; then $(BIN)/mypy tests/typing; fi
	MYPYPATH=python:fuzz/python $(BIN)/mypy fuzz/python scripts/fuzz.py
	MYPYPATH=python $(PYTHON) -m mypy.stubtest --mypy-config-file pyproject.toml hyperpy._hyperpy
	@touch $@

$(PASSED)/docs: $(CODE) $(call find,docs) $(VENV)/.built | $(PASSED)
	$(PYTHON) -m sphinx --fresh-env --quiet --fail-on-warning --keep-going -b html -d build/doctrees docs build/docs
	@touch $@

$(PASSED)/rust: $(RUST) $(FUZZ) .config/nextest.toml $(VENV)/.system | $(PASSED) $(REPORTS)
	@rm -f $(REPORTS)/rust.xml
	cargo nextest run --workspace --cargo-quiet
	@cp target/nextest/default/junit.xml $(REPORTS)/rust.xml
	cargo test --workspace --doc --quiet
	@touch $@

$(PASSED)/asan: $(RUST) .config/nextest.toml $(VENV)/.system | $(PASSED)
	@if ! cargo +nightly --version >/dev/null 2>&1; then \
	  echo "no nightly toolchain: not tested under the address sanitizer" >&2; \
	  echo "hint: rustup toolchain install nightly" >&2; \
	  exit $${HYPERPY_NO_SKIPS:-0}; \
	fi; \
	ASAN_OPTIONS=allocator_may_return_null=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/asan cargo +nightly nextest run --cargo-quiet \
	  --target x86_64-unknown-linux-gnu --package hyperpy-core --package hyperpy-devices && touch $@

# Without a nightly toolchain the Rust tests hold what the targets have found: skipped is the search for more.
$(PASSED)/fuzz: $(RUST) $(CODE) $(FUZZ) $(VENV)/.built | $(PASSED)
	@if ! cargo +nightly --version >/dev/null 2>&1; then \
	  $(PYTHON) scripts/fuzz.py --brief --only python; \
	  echo "no nightly toolchain: the fuzz targets in Rust were not run" >&2; \
	  echo "hint: rustup toolchain install nightly" >&2; \
	  exit $${HYPERPY_NO_SKIPS:-0}; \
	fi; \
	$(PYTHON) scripts/fuzz.py --brief && touch $@

$(PASSED)/speed: $(RUST) $(wildcard benches/instructions.*) $(VENV)/.system | $(PASSED)
	$(PYTHON) benches/instructions.py
	@touch $@

$(PASSED)/python: $(CODE) $(TESTS) pyproject.toml $(VENV)/.built | guests $(PASSED) $(REPORTS)
	@rm -f $(REPORTS)/python.xml
	$(PYTHON) -m pytest --quiet --junitxml=$(REPORTS)/python.xml $(PLAIN_TESTS)
	@touch $@

# The core's own tests as one program, for the lab, where nothing is compiled.
build/core-tests: $(RUST) $(VENV)/.system
	@mkdir -p build
	@cargo test --quiet --package hyperpy-core --lib --no-run --message-format=json \
	  | sed --quiet 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1 | xargs -I@ cp @ $@

# Seldom the lab's emulated processor loses a guest (a triple fault in the midst of an unmodified kernel's boot) or the lab
# itself: docs/concepts/flavours.md. Such a test is run once more, and counted as "rerun"; one that fails twice has failed.
IN_LAB := $(BIN)/hyperpy lab --timeout 900 -- $(PYTHON) -m pytest --quiet --junitxml=$(REPORTS)/lab.xml \
  --reruns 1 --only-rerun 'Exit\.Shutdown\(' -m 'core or lab' tests/kvm tests/lab

$(PASSED)/lab: $(CODE) $(TESTS) pyproject.toml $(VENV)/.built build/core-tests | guests $(PASSED) $(REPORTS)
	@rm -f $(REPORTS)/lab.xml
	$(IN_LAB) || { [ ! -e $(REPORTS)/lab.xml ] && echo "the lab ended before its tests did: once more" >&2 && $(IN_LAB); }
	@touch $@

$(PASSED)/wheel: $(CODE) $(RUST) pyproject.toml $(VENV)/.system $(VENV)/.tools | $(PASSED)
	@rm -rf dist
	$(BIN)/maturin build --release --zig --compatibility manylinux_2_28 --out dist --quiet
	$(PYTHON) scripts/check_wheel.py dist/*.whl
	@touch $@

$(PASSED) $(REPORTS):
	@mkdir -p $@
