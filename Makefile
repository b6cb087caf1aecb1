# The two commands a newcomer needs are `make demo` and `make test`.
# One cargo profile (dev, with ciphers and codecs optimised) serves both, so nothing is compiled twice.

export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/debug/trailhouse
VENV := $(CARGO_TARGET_DIR)/python
PYTHON ?= python3

.PHONY: help build demo test nightly fmt lint rust-test python-test bench bench-large compare release clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

build: ## build the product (dev profile)
	cargo build --locked --workspace --bins

demo: build $(VENV)/ready ## run the main job for real; KEEP=1 leaves the server up
	$(BIN) demo --python $(VENV)/bin/python $(if $(KEEP),--keep) $(DEMO_ARGS)

test: fmt lint rust-test python-test ## everything the gate runs

# Long suites: tests whose path says `nightly`, and those that do more in a build with TRAILHOUSE_NIGHTLY.
LONG := test(nightly) or test(faults::) or test(wal::crash) or test(ten_writers) or test(noninterference::)
KILLS ?= 1000
MINUTES ?= 10

nightly: build $(VENV)/ready ## the long runs: stores, power and processes that die; prints seeds and counts (KILLS=1000)
	$(VENV)/bin/python tests/python/kill.py --binary $(BIN) --kills $(KILLS)
	$(VENV)/bin/python tests/python/soak.py --binary $(BIN) --minutes $(MINUTES)
	TRAILHOUSE_NIGHTLY=1 cargo nextest run --locked --workspace --run-ignored all --no-capture -E '$(LONG)'

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --locked --workspace --all-targets -- -D warnings

rust-test:
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked --workspace; \
	else cargo test --locked --workspace; fi

python-test: build $(VENV)/ready
	TRAILHOUSE_BIN=$(BIN) $(VENV)/bin/python -m pytest -q tests/python notebooks/verify

$(VENV)/ready: tests/python/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt
	@touch $@

BENCH := $(CARGO_TARGET_DIR)/compare/bin/python benches/compare

bench: release $(CARGO_TARGET_DIR)/compare/ready ## audit queries beside DataFusion, DuckDB, chDB and Polars (RECORDS=1000000)
	$(BENCH)/suite.py --trailhouse $(CARGO_TARGET_DIR)/release/trailhouse $(if $(RECORDS),--records $(RECORDS))

STAGES ?= 1000000 10000000 100000000

bench-large: release $(CARGO_TARGET_DIR)/compare/ready ## what queries cost as a table grows; mind the disk (STAGES="1000000 10000000")
	$(BENCH)/growth.py --trailhouse $(CARGO_TARGET_DIR)/release/trailhouse --stages $(STAGES)

compare: release $(CARGO_TARGET_DIR)/compare/ready ## ingest beside the deltalake package and PostgreSQL (POSTGRES=folder of initdb), scans beside a bare server
	$(BENCH)/ingest.py --trailhouse $(CARGO_TARGET_DIR)/release/trailhouse \
		$(if $(POSTGRES),--postgres $(POSTGRES)) $(COMPARE_ARGS)
	$(BENCH)/visible.py --trailhouse $(CARGO_TARGET_DIR)/release/trailhouse
	$(BENCH)/flight.py --trailhouse $(CARGO_TARGET_DIR)/release/trailhouse

$(CARGO_TARGET_DIR)/compare/ready: benches/compare/requirements.txt
	$(PYTHON) -m venv $(CARGO_TARGET_DIR)/compare
	$(CARGO_TARGET_DIR)/compare/bin/python -m pip install --quiet --disable-pip-version-check -r benches/compare/requirements.txt
	@touch $@

release: ## an optimised binary for operators
	cargo build --locked --release --bin trailhouse

clean: ## remove what the build made
	rm -rf $(CARGO_TARGET_DIR)
