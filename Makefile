.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
N ?= 1000
STAMP := .venv/installed
CLUSTER := .venv/installed-cluster

.PHONY: help demo test stack-fetch test-cluster drill drill-cluster lint docs lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

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

stack-fetch: $(STAMP)  ## bring the cluster's servers into the user's cache (1.1 GB, once)
	@$(BIN)/questlog stack fetch

test-cluster: $(CLUSTER) stack-fetch  ## start Kafka, HDFS, Metastore and Presto here and run the cluster's tests on them
	@QUESTLOG_SOME_FAULTS=4 $(BIN)/python tests/cluster

drill: $(STAMP)  ## kill servers and landers N times and cut the power N/10 times (N=1000)
	@QUESTLOG_DRILL=$(N) QUESTLOG_CUTS=$$(( $(N) / 10 )) $(BIN)/python -m pytest -s \
	  tests/faults/test_kills.py tests/faults/test_power_cuts.py tests/faults/test_lander_crash_points.py

drill-cluster: $(CLUSTER) stack-fetch  ## fail every server and part of the cluster N times each under 200 events/s (say N=5)
	@QUESTLOG_CLUSTER=1 QUESTLOG_FAULTS=$(if $(filter file,$(origin N)),1,$(N)) $(BIN)/python -m pytest -s tests/cluster/faults

lint: $(STAMP)  ## check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(STAMP)  ## write the reference pages anew
	@$(BIN)/python docs/generate.py

lock: $(STAMP)  ## pin the dependencies anew, with hashes
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	  --custom-compile-command "make lock" pyproject.toml --extra flask requirements/dev.in -o requirements/dev.txt
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	  --custom-compile-command "make lock" pyproject.toml --extra cluster -c requirements/dev.txt -o requirements/cluster.txt

clean:  ## remove the environment and the demo's data
	@rm -rf .venv questlog-demo
