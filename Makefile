# The commands of the README. Each runs on a fresh Debian 12 with Rust, Node 20 and Python.

# Where cargo builds.
TARGET = $(or $(CARGO_TARGET_DIR),target)

.PHONY: build demo test lint unit bench

# The release binary, in target/release/ostler.
build:
	cargo build --release --package ostler

# A task in words becomes merged, tested code: a server in a temporary directory, a sample project, an agent.
demo: build
	scripts/demo --binary $(TARGET)/release/ostler

# Everything that must hold before a commit: what continuous integration runs.
test:
	scripts/install-test-deps
	$(MAKE) lint
	$(MAKE) unit

lint:
	cargo fmt --all --check
	cargo deny --log-level error check bans licenses sources
	cargo run --quiet --package xtask -- direction
	cargo clippy --workspace --all-targets -- --deny warnings

unit:
	cargo nextest run --workspace --no-fail-fast
	python3 examples/test_demo_agent.py
	scripts/demo --agent command --binary $(TARGET)/debug/ostler

# Ostler beside its peers, in one run on this machine; writes benches/RESULTS.md. Takes twenty minutes and wants the machine
# for itself; ROUNDS=5 is for a record. QUICK=1: a minute or two that show that it works, with the tables in target/.
bench:
	cargo build --release --package ostler --package ostler-benches
	target/release/ostler-benches $(if $(QUICK),--quick --output target/bench-quick.md) $(if $(ROUNDS),--rounds $(ROUNDS))
