# Portolan. `make run` starts a three-node cluster on loopback, `make test` runs everything.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CACHE ?= $(or $(PORTOLAN_CACHE),$(HOME)/.cache/portolan)
export CARGO_BUILD_BUILD_DIR ?= $(CACHE)/build
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_INCREMENTAL ?= 0
export ROCKSDB_STATIC = 1
ROCKSDB = export ROCKSDB_LIB_DIR="$$(.ci/rocksdb.sh $(CACHE))"
BIN = $(CARGO_TARGET_DIR)/debug/portolan

.PHONY: run test check unit it build bench image clients test-clients test-compose test-ops conformance clean tools fmt deny sim test-helm jepsen jepsen-smoke jepsen-s3 jepsen-long jepsen-mutants test-upgrade

## run: a three-node, three-zone cluster on loopback; prints endpoints, a credential and lines to paste
run: build
	$(BIN) dev $(ARGS)

## build: the binary, in the one profile that serves run, test and faults
build: tools
	$(ROCKSDB); cargo build --workspace --locked

## check: formatting, lints, unit and tidy tests; before every commit
check: tools
	$(ROCKSDB); cargo fmt --all --check
	$(ROCKSDB); cargo clippy --workspace --all-targets --locked -- -D warnings
	$(ROCKSDB); cargo clippy --workspace --features portolan/sim --test sim --locked -- -D warnings
	$(MAKE) unit

## deny: licences, sources, doubled crates and known advisories of all dependencies
deny:
	.ci/deny.sh $(CACHE)

unit: tools
	$(ROCKSDB); cargo test --workspace --lib --bins --locked
	$(ROCKSDB); cargo test -p registry-core --tests --locked
	$(ROCKSDB); cargo test --locked --test tidy

## test: everything: check, simulation, integration, conformance, real clients that install in minutes
test: check sim it conformance clients test-helm jepsen-smoke

it: build
	$(ROCKSDB); cargo test --locked --test it

## sim: a minute of simulated clusters, each decided by a new seed, after the seeds that found something once; then servers
## with faults put in on purpose, which it must see. SEED=7 runs one again, SECONDS=600 more of them
# With the workspace's features its dependencies are those of the unit tests, and are compiled once.
SIM = cargo test --workspace --features portolan/sim --locked --test sim

sim: tools
	$(ROCKSDB); SIM_SECONDS=$(or $(SECONDS),60) SEED=$(SEED) $(SIM) -- --nocapture
	$(ROCKSDB); [ -n "$(SEED)" ] || $(SIM) mutants_are_caught -- --ignored --nocapture

## conformance: the OCI conformance program, every option on, against each of three nodes
conformance: build
	tests/conformance/run.sh

## clients: real clients that install in a few minutes, and sent to a nearer node also over HTTPS
clients: build
	tests/clients/run.sh --quick
	TLS=1 tests/clients/run.sh nearest

## test-clients: every real client, each pushing to one node and pulling from another; over HTTP, HTTPS, and with Basic
test-clients: build
	tests/clients/run.sh --all
	TLS=1 tests/clients/run.sh --all
	SETTINGS=auth.challenge=basic tests/clients/run.sh --all

## test-compose: docker-compose.yml with both versions of compose and both balancers, nodes killed; about ten minutes
test-compose: build
	tests/compose/run.sh
	tests/compose/two-regions.sh

## test-ops: unit, alert rules, board and runbooks; three drills, ARGS=--all does all, ARGS=--check starts nothing
test-ops: build
	tests/ops/run.sh $(ARGS)

## test-helm: the chart, rendered, decoded strictly and checked by the product; ARGS=--pods runs its pods in containers
test-helm: build
	tests/helm/run.sh $(ARGS)

JEPSEN = $(CARGO_TARGET_DIR)/debug/jepsen run --store $(CACHE)/store

## jepsen-smoke: six minutes of faults that need no root: leaders killed under pushes, every node killed under uploads,
## nodes killed while garbage is collected, links between two regions cut and their leaders killed, then nodes killed,
## paused and restarted under all workloads at once
jepsen-smoke: build
	$(JEPSEN) --workload push-set --nemesis kill-leader --kills 3 --clients 20
	$(JEPSEN) --workload upload-resume
	$(JEPSEN) --workload gc --nemesis kill-any --kills 2 --clients 16
	$(JEPSEN) --workload region --minutes 0.6 --clients 12
	$(JEPSEN) --workload mixed --nemesis mix --only kill,pause,restart,transfer-leader --minutes 0.6 --clients 20

## jepsen-s3: the same with blobs in a bucket, behind a proxy that slows down and loses answers; two minutes
jepsen-s3: build
	$(JEPSEN) --blobs s3 --workload push-set --nemesis kill-leader --kills 3 --clients 20
	$(JEPSEN) --blobs s3 --workload upload-resume
	$(JEPSEN) --blobs s3 --workload mixed --nemesis mix --only kill,pause,restart,transfer-leader --minutes 0.6 --clients 20

## jepsen: twenty leaders killed under 100 pushing clients, uploads and pulls under kills of any node, power cuts (as root)
jepsen: build
	$(JEPSEN) --workload push-set --nemesis kill-leader --kills 20 --clients 100
	$(JEPSEN) --workload upload-resume --rounds 3
	$(JEPSEN) --workload pull-by-digest --nemesis kill-any --kills 10 --clients 30
	$(JEPSEN) --workload push-set --nemesis powercut --cuts 10 --clients 20
	$(JEPSEN) --workload push-set --nemesis powercut-all --cuts 4 --clients 20
	$(JEPSEN) --workload gc --nemesis powercut --cuts 6 --clients 16

## jepsen-long: MINUTES of faults under all workloads, as root: runs of four minutes (their volumes hold no more), seeds from
## SEED on
jepsen-long: build
	for run in $$(seq $$(( $(or $(MINUTES),60) / 5 ))); do \
	  $(JEPSEN) --workload mixed --nemesis mix --minutes 4 --clients 20 --layer-bytes-max 65536 --seed $$(( $(or $(SEED),1) + run )); \
	done

## jepsen-mutants: servers with faults put in on purpose, each of which the harness must catch; about ten minutes, as root
jepsen-mutants: build
	$(ROCKSDB); jepsen/mutants.sh $(CACHE) $(CARGO_TARGET_DIR)/debug/jepsen

## test-upgrade: nodes of the last release upgraded one by one under load, taken back, upgraded again and finalized
test-upgrade: build
	$(JEPSEN) --workload mixed --nemesis upgrade --from "$$(jepsen/release.sh $(CACHE) 0.1.0)" --clients 20

## bench: beside distribution, nginx and etcd in one run
bench: build
	deploy/bench/run.sh

## image: the container image, from the built binary; nothing is pulled
image: build
	deploy/docker/image.sh

tools:
	@.ci/toolchain.sh

fmt:
	cargo fmt --all

## clean: compiled output and test leavings; the cached RocksDB stays
clean:
	rm -rf "$(CARGO_TARGET_DIR)" "$(CARGO_BUILD_BUILD_DIR)" .tools target
