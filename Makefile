# Fed-VEMoE. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch first and by itself, so that pip keeps the build that is chosen here. What a plain version
# gives depends on the package index: on Linux the usual one has the CUDA build, several gigabytes.
# A build for CPUs alone has an index of its own: make install TORCH='torch==... --index-url ...'
TORCH ?= torch==2.13.0
SILOS ?= 12

.DEFAULT_GOAL := help
.PHONY: help install demo consortium test test-slow check format bench docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/installed: pyproject.toml
	@echo "installing into $(VENV): torch, Flower and what they need, some minutes without a word"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

install: $(VENV)/installed ## make .venv with all that a run needs

demo: $(VENV)/installed ## run the main job on the embedded tasks and model; pictures and a summary
	$(BIN)/fedvemoe run --silos $(SILOS)

consortium: $(VENV)/installed ## a real deployment on loopback: keys, TLS, SuperNodes, one finished run
	$(BIN)/fedvemoe consortium

test: $(VENV)/installed-dev ## run the default tests: no network, no GPU, under 10 minutes
	$(BIN)/pytest -n logical --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/installed-dev ## run the tests that take longer
	$(BIN)/pytest -m slow

check: $(VENV)/installed-dev ## lint, types, and the default tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

format: $(VENV)/installed-dev ## put the code into its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed-dev ## run the benchmarks; each prints a table and writes JSON
	$(BIN)/python -m benchmarks.round
	$(BIN)/python -m benchmarks.compute
	$(BIN)/python -m benchmarks.secagg

docs: $(VENV)/installed-docs ## write docs/configuration.md from the settings and build the site into site/
	$(BIN)/fedvemoe settings > docs/configuration.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html; search in it needs a server: $(BIN)/python -m http.server -d site"

clean: ## remove the environment and caches, never results
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
