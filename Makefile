.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
N ?= 1000
STAMP := .venv/installed
CLUSTER := .venv/installed-cluster
DRILL := tests/faults/test_kills.py tests/faults/test_power_cuts.py tests/faults/test_lander_crash_points.py

.PHONY: help demo test stack-fetch test-cluster test-cluster-full drill drill-cluster lint docs lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

$(STAMP): requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing pinned dependencies into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## run the game, send it traffic, check the analyst's answers
	@$(BIN)/questlog demo

test: $(STAMP)  ## run the tests, two files at a time
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

$(CLUSTER): $(STAMP) requirements/cluster.txt
	@echo "installing Spark and the clients of the cluster into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/cluster.txt
	@touch $@

stack-fetch: $(STAMP)  ## download the cluster's servers into the user's cache (1.1 GB, once)
	@$(BIN)/questlog stack fetch

test-cluster: $(CLUSTER) stack-fetch  ## start Kafka, HDFS, Metastore and Presto here and run the cluster tests on them
	@$(BIN)/python tests/cluster

test-cluster-full: $(CLUSTER) stack-fetch  ## the same, with every security variant and every fault (about an hour)
	@QUESTLOG_DRILL=300 QUESTLOG_CUTS=100 $(BIN)/python -m pytest -s $(DRILL) tests/faults/test_collector_kills.py
	@$(BIN)/python tests/cluster --full

drill: $(STAMP)  ## kill servers and landers N times and cut the power N/10 times (N=1000)
	@QUESTLOG_DRILL=$(N) QUESTLOG_CUTS=$$(( $(N) / 10 )) $(BIN)/python -m pytest -s $(DRILL)

drill-cluster: $(CLUSTER) stack-fetch  ## break every server and part of the cluster N times under 200 events/s (N=1)
	@QUESTLOG_CLUSTER=1 QUESTLOG_FAULTS=$(if $(filter file,$(origin N)),1,$(N)) $(BIN)/python -m pytest -s tests/cluster/faults

lint: $(STAMP)  ## check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(STAMP)  ## regenerate the reference pages
	@$(BIN)/python docs/generate.py

lock: $(STAMP)  ## pin the dependencies again, with hashes
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	  --custom-compile-command "make lock" pyproject.toml --extra flask requirements/dev.in -o requirements/dev.txt
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	  --custom-compile-command "make lock" pyproject.toml --extra cluster -c requirements/dev.txt -o requirements/cluster.txt

clean:  ## remove the environment and the demo's data
	@rm -rf .venv questlog-demo
