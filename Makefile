# Every target does its own set-up. RECIPE=name picks a recipe; ARGS=… adds options of the command.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ORACLE := .venv-oracle
CHECKOV := .venv-checkov
PIP := -m pip --disable-pip-version-check --quiet
RUN := $(BIN)/orchestrator
NAMED = $(if $(RECIPE),$(RECIPE),$(error name a recipe: make $@ RECIPE=tiny-llama-w4a16-nvfp4; `make recipes` lists them))

.PHONY: help setup setup-torch build plan dry-run lock verify bench deploy undeploy recipes doctor test test-fast lint schema evaluate-planner chaos docs clean

help: ## List the targets
	@echo "make TARGET [RECIPE=name] [ARGS='--set key=value …']"; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-17s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make .venv, so that .venv/bin/orchestrator is the command

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12" >&2; exit 6; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: sudo apt-get install -y python3-venv" >&2; exit 6; }
	@echo "setting up $(VENV) …" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) install --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@echo "installing what the tests need …" >&2
	@$(BIN)/python $(PIP) install --upgrade 'pip>=25.1'
	@$(BIN)/python $(PIP) install --group test --group bundle
	@touch $@

$(CHECKOV)/.installed: $(VENV)/.tested
	@echo "installing checkov for the tests of bundles; this takes a minute …" >&2
	@$(PYTHON) -m venv $(CHECKOV)
	@$(CHECKOV)/bin/python $(PIP) install --upgrade 'pip>=25.1'
	@$(CHECKOV)/bin/python $(PIP) install --group checkov
	@touch $@

$(ORACLE)/.installed: $(VENV)/.tested
	@echo "installing ModelOpt and torch for the oracle test; this takes minutes …" >&2
	@$(PYTHON) -m venv $(ORACLE)
	@$(ORACLE)/bin/python $(PIP) install torch==2.13.0
	@$(ORACLE)/bin/python $(PIP) install --upgrade 'pip>=25.1'
	@$(ORACLE)/bin/python $(PIP) install --group oracle
	@touch $@

$(VENV)/.torch: $(VENV)/.installed
	@echo "installing torch and transformers, which calibration runs the model with; this takes minutes …" >&2
	@$(BIN)/python $(PIP) install --upgrade 'pip>=25.1'
	@$(BIN)/python $(PIP) install --group torch
	@touch $@

setup-torch: $(VENV)/.torch ## Install torch and transformers, for recipes that calibrate without a container

# The recipes that run a model on this machine's Python.
CALIBRATED := tiny-llama-nvfp4 tiny-llama-fp8 tiny-llama-auto

build: setup $(if $(filter $(CALIBRATED),$(RECIPE)),setup-torch) ## Build a recipe: download, quantize, check, measure, write dist/
	@$(RUN) build $(NAMED) $(ARGS)

plan: setup ## Say whether a recipe works, what it costs and what it does
	@$(RUN) plan $(NAMED) $(ARGS)

dry-run: setup ## Print what a build would run; all recipes where none is named
	@$(RUN) build --dry-run $(if $(RECIPE),$(RECIPE),--all) $(ARGS)

lock: setup ## Resolve a recipe's revisions to commits and write its lock
	@$(RUN) lock $(NAMED) $(ARGS)

verify: setup ## Build as far as the checks and show them
	@$(RUN) verify $(NAMED) $(ARGS)

bench: $(if $(RECIPE),setup,$(VENV)/.tested $(ORACLE)/.installed) ## Measure what a recipe serves; without RECIPE, the tool itself against others
ifdef RECIPE
	@$(RUN) bench $(RECIPE) $(ARGS)
else
	@missed=; for script in benchmarks/*.py; do echo "== $$script"; PYTHONPATH=. $(BIN)/python "$$script" $(ARGS) || missed+=" $$script"; done; [ -z "$$missed" ] || { echo "missed a goal:$$missed" >&2; exit 7; }
endif

deploy: setup ## Bring the server of a built recipe up, and ask it something
	@$(RUN) deploy $(NAMED) $(ARGS)

undeploy: setup ## Take the server of a recipe down
	@$(RUN) undeploy $(NAMED) $(ARGS)

recipes: setup ## List the recipes
	@$(RUN) recipes $(ARGS)

doctor: setup ## Look at this machine, for a recipe if one is named
	@$(RUN) doctor $(RECIPE) $(ARGS)

test: $(VENV)/.tested $(ORACLE)/.installed $(CHECKOV)/.installed lint ## Run every test
	@$(BIN)/python -m pytest --quiet --numprocesses auto tests/unit
	@$(BIN)/python -m pytest tests/contract tests/integration tests/chaos $(ARGS)

test-fast: $(VENV)/.tested ## Run the unit tests: under a minute
	@$(BIN)/python -m pytest --quiet --numprocesses auto tests/unit $(ARGS)

lint: $(VENV)/.tested ## Check style, types, the direction of imports and what is generated
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports --no-logo
	@$(RUN) schema --check
	@$(BIN)/python -m docs.generate --check

chaos: $(VENV)/.tested ## Kill builds some hundred times at random, and look for a wrong byte
	@$(BIN)/python -m tests.chaos --kills 500 $(ARGS)

docs: $(VENV)/.tested ## Write the generated pages of docs/ and README.md again
	@$(BIN)/python -m docs.generate

schema: setup ## Write recipes/recipe.schema.json again
	@$(RUN) schema --write

evaluate-planner: setup ## Score the planner's speeds on published measurements, where there are any (DATA=folder)
	@$(BIN)/python -m evaluation.planner $(DATA) $(ARGS)

clean: ## Remove what was set up; results and deployments stay
	@rm -rf $(VENV) $(ORACLE) $(CHECKOV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
