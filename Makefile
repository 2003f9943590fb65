# Set-up needs python3.11, git and gcc; everything else lands in .venv.
# `make PYTHON=/path/to/python3.11` builds it on another interpreter.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PYTEST_ARGS ?=
# Processes that share the tests, a file each at a time; 0 for none.
WORKERS ?= 2
export PYTHON
TEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup scatter demo test test-fast check ui constraints clean

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## build .venv: torch, torch-scatter, the rest at exact versions

$(READY): pyproject.toml constraints.txt scripts/setup_environment.sh
	@scripts/setup_environment.sh
	@touch $@

scatter: ## set-up, with another try at torch-scatter (optional: faster explicit edges)
	@scripts/setup_environment.sh scatter
	@touch $(READY)

demo: $(READY) ## a zoo, both encoders, probes, new networks: one table, and MLflow
	$(BIN)/graphrep demo

test: check ## checks and the whole test suite
	$(TEST) $(PYTEST_ARGS)

test-fast: $(READY) ## the tests that take seconds
	$(TEST) -m "not slow" $(PYTEST_ARGS)

check: $(READY) ## ruff, formatting, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: $(READY) ## MLflow's pages on the local store
	$(BIN)/graphrep ui

constraints: $(READY) ## write constraints.txt from .venv
	@$(BIN)/python -c 'import torch_scatter' # else its version would be lost
	$(BIN)/pip freeze --all --exclude-editable --exclude pip \
		| sed -nE 's/^([A-Za-z0-9._-]+==[^+ ]+).*/\1/p' | LC_ALL=C sort -f > $(VENV)/frozen
	{ echo '# Exact versions, written by `make constraints`.'; cat $(VENV)/frozen; } > constraints.txt
	@touch $(READY)

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .venv.lock .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
