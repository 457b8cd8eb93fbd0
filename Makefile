# What a developer and CI run. `make` lists the targets; each one can be run again and again.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Prints how long a step took, also when it failed.
timed = @TIMEFORMAT='-- $@: %0lR'; time

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

tools: ## Install what the tests need beside Rust (Debian: apt, pip, npm); quick when it is there
	$(timed) .ci/tools rust python browser examples buf proxy promtool redis nats

test: tools format lint check docs ## Install what tests need, then format, lint, all tests, docs

format: ## Fail when a file is not formatted
	$(timed) cargo fmt --all --check

lint: ## Clippy over everything, warnings denied
	$(timed) cargo clippy --workspace --all-targets --locked -- -D warnings

check: ## All tests of the workspace, the tidy test among them
	$(timed) cargo test --workspace --locked --quiet --no-fail-fast

docs: ## Documentation of every item, broken links denied
	$(timed) env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet

conformance: ## The Autobahn WebSocket suite against a release build
	$(timed) .ci/tools rust python27
	$(timed) cargo build --release --locked -p gateway
	$(timed) gateway/tests/autobahn/run.sh

fuzz: ## Each fuzz target for 20 seconds
	$(timed) gateway/fuzz/run.sh 20

bench: ## The gateway beside a Bun server, in pairs: see loadtest/README.md
	$(timed) .ci/tools rust bun
	$(timed) cargo build --release --locked -p gateway -p loadtest
	$(timed) cargo run --release --locked --quiet -p loadtest -- compare

compare: ## Every peer against the floor; writes loadtest/RESULTS.md and its plot: about half an hour
	$(timed) .ci/tools rust bun nchan tungstenite
	$(timed) cargo build --release --locked -p gateway -p loadtest
	$(timed) cargo run --release --locked --quiet -p loadtest -- compare --subjects ours,bun,tungstenite,nchan --against floor \
	    --bars echo=1.1,fanout=1.05,handshake=1.3 --results loadtest

million: ## A million connections, both ends here, against the bars: half an hour, root, 4 cores, 10 GiB free
	$(timed) cargo build --release --locked -p gateway -p loadtest
	$(timed) env RESULTS=loadtest loadtest/scale/run.sh 1000000 600

two-million: ## Two million of them: half an hour, root, 4 cores, 19 GiB free
	$(timed) cargo build --release --locked -p gateway -p loadtest
	$(timed) env RESULTS=loadtest loadtest/scale/run.sh 2000000 300

storm: ## 200,000 connections cut at once and all back, twice: five minutes, root, 4 GiB free
	$(timed) cargo build --release --locked -p gateway -p loadtest
	$(timed) env RESULTS=loadtest loadtest/scale/run.sh 200000 0 storm

stream: ## A stream of publishes to 10,000 subscribers on all cores: a minute
	$(timed) cargo build --release --locked -p gateway -p loadtest
	mkdir -p target
	$(timed) { status=0; target/release/loadtest run loadtest/scale/stream.toml || status=$$?; \
	    [ $$status -gt 1 ] || target/release/loadtest record stream --title "A stream of publishes to 10,000 subscribers" \
	    --command "make stream" target/stream-{each,together}.json; exit $$status; }

deny: ## Licences, bans and sources of every dependency, by cargo-deny
	$(timed) .ci/tools rust deny
	$(timed) .tools/bin/cargo-deny --all-features check --hide-inclusion-graph bans licenses sources

.PHONY: help tools test format lint check docs conformance fuzz bench compare million two-million storm stream deny
