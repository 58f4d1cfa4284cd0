# Every target does its own set-up. RECIPE=name picks a recipe; ARGS=… adds options of the command.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
ORACLE := .venv-oracle
IMAGE := .venv-image
VLLM := .venv-vllm
CHECKOV := .venv-checkov
DOCS := .venv-docs
CLIENTS := .venv-clients
# The folder of the lock. `make test-newest` and `make test-lowest` take one of their own.
LOCK := requirements
BIN := $(VENV)/bin
RUN := $(BIN)/orchestrator
NAMED = $(if $(RECIPE),$(RECIPE),$(error name a recipe: make $@ RECIPE=tiny-llama-w4a16-nvfp4; `make recipes` lists them))

# $(call install,FOLDER,FILE[,LOCK]): exactly what a file of the lock says; a wheel with another hash is refused. A file is whole,
# so nothing needs to be resolved, and no constraint of the machine applies; Python compiles a module when it is first imported.
# The pip of the lock, in $(VENV), serves the other environments too.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
install = PIP_CONSTRAINT=/dev/null $(PIP) --python $(1)/bin/python install --no-deps --no-compile --no-build-isolation --require-hashes --requirement $(or $(3),$(LOCK))/$(2).txt
fresh = $(PYTHON) -m venv --clear --without-pip

# Installing compiles no module, so each has to be kept once it was imported: without, every command takes three times as long.
unexport PYTHONDONTWRITEBYTECODE

# Tests find by these names what set-up made for them: the lock, its wheels (they install the tool without a network), interpreters.
export ORCHESTRATOR_LOCK = $(abspath $(LOCK))
export ORCHESTRATOR_WHEELS = $(abspath $(VENV))/wheels
export ORCHESTRATOR_ORACLE_PYTHON = $(abspath $(ORACLE))/bin/python
export ORCHESTRATOR_IMAGE_PYTHON = $(abspath $(IMAGE))/bin/python
export ORCHESTRATOR_VLLM_PYTHON = $(abspath $(VLLM))/bin/python
export ORCHESTRATOR_CHECKOV = $(abspath $(CHECKOV))/bin/checkov
export ORCHESTRATOR_MKDOCS = $(abspath $(DOCS))/bin/mkdocs
export ORCHESTRATOR_CLIENTS = $(abspath $(CLIENTS))/bin

.PHONY: help setup setup-torch environments build plan dry-run lock verify bench deploy undeploy recipes doctor test test-fast test-slow test-every-case test-newest test-lowest test-vllm test-clients mutants families lint relock schema evaluate-planner evaluate-vllm evaluate-serving chaos chaos-slurm docs docs-site clean

help: ## List the targets
	@echo "make TARGET [RECIPE=name] [ARGS='--set key=value …']"; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-17s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make .venv, so that .venv/bin/orchestrator is the command

$(VENV)/.locked: $(LOCK)/runtime.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12" >&2; exit 6; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: sudo apt-get install -y python3-venv" >&2; exit 6; }
	@echo "setting up $(VENV) …" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(call install,$(VENV),build)
	@$(call install,$(VENV),runtime)
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.locked $(LOCK)/test.txt | $(VENV)/.installed
	@echo "installing what the tests need …" >&2
	@$(call install,$(VENV),test)
	@rm -rf $(VENV)/wheels
	@$(PIP) download --no-deps --no-build-isolation --require-hashes --requirement $(LOCK)/runtime.txt --dest $(VENV)/wheels
	@touch $@

$(VENV)/.torch: $(VENV)/.locked $(LOCK)/torch.txt | $(VENV)/.installed
	@echo "installing torch and transformers, which calibration runs the model with; this takes minutes …" >&2
	@$(call install,$(VENV),torch)
	@touch $@

$(VENV)/.mutants: $(VENV)/.locked $(LOCK)/mutants.txt | $(VENV)/.tested
	@echo "installing what changes the code for mutation tests …" >&2
	@$(call install,$(VENV),mutants)
	@touch $@

$(CHECKOV)/.installed: $(LOCK)/checkov.txt | $(VENV)/.locked
	@echo "installing checkov for the tests of bundles; this takes a minute …" >&2
	@$(fresh) $(CHECKOV)
	@$(call install,$(CHECKOV),checkov)
	@touch $@

$(ORACLE)/.installed: $(LOCK)/oracle.txt | $(VENV)/.locked
	@echo "installing ModelOpt and torch for the oracle test; this takes minutes …" >&2
	@$(fresh) $(ORACLE)
	@$(call install,$(ORACLE),oracle)
	@touch $@

$(IMAGE)/.installed: $(LOCK)/image.txt | $(VENV)/.locked
	@echo "installing the libraries of an image for the tests of what runs in it …" >&2
	@$(fresh) $(IMAGE)
	@$(call install,$(IMAGE),image)
	@touch $@

# Only Python files of vLLM's wheels are unpacked, so those for x86_64 do on every machine.
$(VLLM)/.installed: $(LOCK)/vllm.txt $(wildcard requirements/vllm-*.in) | $(VENV)/.locked
	@echo "installing what vLLM imports, and its own Python files; this takes minutes …" >&2
	@$(fresh) $(VLLM)
	@$(call install,$(VLLM),vllm)
	@for version in 0.27.1 0.33.0; do $(PIP) download --no-deps --only-binary :all: --platform manylinux_2_28_x86_64 --require-hashes --requirement requirements/vllm-$$version.in --dest $(VLLM)/wheels; $(BIN)/python -c 'import sys, zipfile as z; [z.ZipFile(w).extractall(sys.argv[2], [n for n in z.ZipFile(w).namelist() if not n.endswith(".so")]) for w in sys.argv[1:2]]' $(VLLM)/wheels/vllm-$$version-*.whl $(VLLM)/vllm-$$version; done
	@rm -r $(VLLM)/wheels
	@touch $@

$(DOCS)/.installed: $(LOCK)/docs.txt | $(VENV)/.locked
	@echo "installing what builds the documentation …" >&2
	@$(fresh) $(DOCS)
	@$(call install,$(DOCS),docs)
	@touch $@

$(CLIENTS)/.installed: $(LOCK)/clients.txt tests/clients/package-lock.json | $(VENV)/.locked
	@command -v npm >/dev/null || { echo "npm is missing, for OpenAI's client for JavaScript: sudo apt-get install -y npm" >&2; exit 6; }
	@echo "installing load generators and clients of a deployment; this takes minutes and a gigabyte …" >&2
	@$(fresh) $(CLIENTS)
	@$(call install,$(CLIENTS),clients)
	@cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)
	@npm ci --prefix $(CLIENTS) --ignore-scripts --no-audit --no-fund --silent
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

test: $(VENV)/.tested ## Run every test; what the slow ones need is set up while lint and unit tests run
	@$(MAKE) environments & trap "kill $$! 2>/dev/null || :" EXIT; $(MAKE) lint test-fast; wait $$!
	@$(MAKE) test-slow

test-fast: $(VENV)/.tested ## Run the unit tests: under two minutes
	@$(BIN)/python -m pytest --quiet --numprocesses auto tests/unit $(ARGS)

environments: $(VENV)/.tested $(ORACLE)/.installed $(IMAGE)/.installed $(CHECKOV)/.installed $(DOCS)/.installed

test-slow: environments ## Run the tests that need containers, ModelOpt or real tools
	@$(BIN)/python -m pytest --quiet --numprocesses $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder tests/contract tests/integration tests/chaos $(ARGS)

test-every-case: ## As test-slow, with every case of the tables of which it tries a sample: 40 minutes
	@$(MAKE) test-slow ORCHESTRATOR_EVERY_CASE=1

test-newest: $(VENV)/.tested ## Run every test with the newest of every dependency, and say what changed and what breaks
	@$(BIN)/python requirements/lock.py --newest build/newest
	@$(MAKE) --keep-going lint test-fast test-slow LOCK=build/newest VENV=.venv-newest ORACLE=.venv-newest-oracle IMAGE=.venv-newest-image CHECKOV=.venv-newest-checkov DOCS=.venv-newest-docs

test-lowest: $(VENV)/.tested ## Run the unit tests with the lowest versions that pyproject.toml allows
	@$(BIN)/python requirements/lock.py --lowest build/lowest
	@$(fresh) .venv-lowest
	@$(call install,.venv-lowest,build)
	@$(call install,.venv-lowest,test,build/lowest)
	@.venv-lowest/bin/python -m pytest --quiet --numprocesses auto tests/unit $(ARGS)

test-vllm: $(VENV)/.tested $(VLLM)/.installed ## Let vLLM's own parser and configuration classes read every command and file that is written for it
	@$(BIN)/python -m pytest --quiet tests/vllm $(ARGS)

test-clients: $(VENV)/.tested $(CLIENTS)/.installed ## Let guidellm, aiperf, litellm and OpenAI for JavaScript load a deployment with few requests
	@$(BIN)/python -m pytest --quiet tests/clients $(ARGS)

mutants: $(VENV)/.mutants $(ORACLE)/.installed ## Change the code in 300 places, one at a time, and count what the tests notice
	@$(BIN)/python -m mutants $(ARGS)

families: $(VENV)/.tested $(ORACLE)/.installed ## Compare a tiny model of every family of transformers with ModelOpt; write docs/reference/families.md
	@missed=; $(BIN)/python -m tests.families $(ARGS) || missed=1; $(BIN)/python -m docs.generate; [ -z "$$missed" ]

relock: $(VENV)/.tested ## Write the lock of the environments again from pyproject.toml (ARGS=--upgrade: with newer versions)
	@$(BIN)/python requirements/lock.py $(ARGS)

lint: $(VENV)/.tested ## Check style, types, the direction of imports and what is generated
	@$(BIN)/python requirements/lock.py --check
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/codespell orchestrator recipes docker docs evaluation benchmarks mutants README.md CONTRIBUTING.md SECURITY.md Makefile
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports --no-logo
	@$(RUN) schema --check
	@$(BIN)/python -m docs.generate --check

chaos: $(VENV)/.tested ## Kill builds some hundred times at random, and look for a wrong byte
	@$(BIN)/python -m tests.chaos --kills 500 $(ARGS)

chaos-slurm: $(VENV)/.tested ## Kill parts of a Slurm and builds on it 200 times at random, and look for a wrong byte
	@$(BIN)/python -m tests.chaos.slurm --faults 200 $(ARGS)

docs-site: $(DOCS)/.installed ## Build the documentation as a site in build/site
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

docs: $(VENV)/.tested ## Write the generated pages of docs/ and README.md again
	@$(BIN)/python -m docs.generate

schema: setup ## Write recipes/*.schema.json again
	@$(RUN) schema --write

evaluate-planner: setup ## Score the planner's speeds on published measurements, where there are any (DATA=folder)
	@$(BIN)/python -m evaluation.planner $(DATA) $(ARGS)

evaluate-vllm: ## Load every format in a real vLLM (needs an NVIDIA GPU, and PYTHON=… with vllm and requirements/runtime.txt)
	@$(PYTHON) -c 'import importlib.util as i, sys; sys.exit(not all(map(i.find_spec, ("vllm", "ml_dtypes", "click"))))' || { echo "vllm and what requirements/runtime.txt lists are needed in $$($(PYTHON) -c 'import sys; print(sys.executable)'). Name another: make $@ PYTHON=…" >&2; exit 6; }
	@$(PYTHON) -m evaluation.vllm $(ARGS)

evaluate-serving: setup ## Serve a random model with a real vLLM behind the gateway (needs an NVIDIA GPU, and PYTHON=… with vllm, aiohttp and openai)
	@$(RUN) build evaluation/served-llama.yaml --executor process
	@PATH="$$(dirname $(PYTHON)):$$PATH" $(PYTHON) -m evaluation.serving dist/served-llama $(ARGS)

clean: ## Remove what was set up; results and deployments stay
	@rm -rf $(VENV) .venv-* build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
