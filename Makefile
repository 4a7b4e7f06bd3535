.DEFAULT_GOAL := help
.PHONY: help install pipeline-run test prove bench test-cluster testbed-up testbed-down lint lock proto clean

PRESET ?= cpu
ARGS ?=
DATA ?=
TEACHER ?=
JOBS ?= 2

help: ## Print the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

install: ## Make .venv from the lock files
	@scripts/install

pipeline-run: install ## Images and a teacher in, a signed int8 student out: the demo, or DATA=folder TEACHER=file.onnx
	@.venv/bin/edgedistill run --preset $(PRESET) $(if $(DATA),--data $(DATA)) $(if $(TEACHER),--teacher $(TEACHER)) $(ARGS)

test: install lint ## Everything that needs no cluster; REQUIRE_ALL=1 makes a skip a failure
	@.venv/bin/python -m tests.go_modules helm helm3 minio
	@.venv/bin/python -m pytest -n $(JOBS) -m "not cluster"

prove: install ## The node's promises, whole: about an hour, counts at the end
	@EDGEDISTILL_PROVE=1 .venv/bin/python -m pytest -m proof --timeout 3600

bench: install ## Speed and memory of the node and of the rollout controller, ratios inside one run
	@.venv/bin/python -m benchmarks.node
	@.venv/bin/python -m benchmarks.rollout

test-cluster: install ## Real kubelets, real helm, real students (root, Linux); CLUSTER=kind or current: elsewhere. tests/cluster/README.md
	@.venv/bin/python -m tests.cluster.run

testbed-up: install ## Bring the testbed up and leave it
	@.venv/bin/python -m tests.cluster.testbed up

testbed-down: install ## Remove the testbed
	@.venv/bin/python -m tests.cluster.testbed down

lint: install ## ruff and mypy
	@.venv/bin/ruff format --check --quiet . && .venv/bin/ruff check --quiet . && .venv/bin/mypy

lock: ## Resolve the lock files anew
	@scripts/lock

proto: ## Generate the node's protocol code
	@.venv/bin/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. edge/node/protocol/open_inference.proto

clean: ## Remove the environment and the embedded runs
	rm -rf .venv .edgedistill
