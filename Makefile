# `make` lists what there is. Nothing here is needed to use danlu: `pip install` does as well.
# Which build of torch `make setup` takes, tools/install decides and says; words for pip decide it
# instead: make setup PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
export PIP_ARGS
BIN := .venv/bin
DANLU := $(BIN)/danlu
# Compared and formatted code; examples and docs hold none.
CODE := src tests tools benchmarks native hatch_build.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test soak check bench-train bench-serve bench-places starter starter-eval studio native built clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' Makefile

setup: .venv/installed built ## create .venv and install danlu in it, with the torch for this machine
	@scripts/on-path.sh

demo: .venv/installed ## fine-tune, compare, merge and chat with the starter model (2 minutes)
	$(DANLU) demo

test: .venv/installed-dev built ## run the whole test suite (no network)
	@failed=0; \
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		--ignore tests/npu --ignore tests/nvidia || failed=1; \
	$(BIN)/python -m pytest tests/npu || failed=1; \
	$(BIN)/python -m pytest -n logical --maxprocesses 4 tests/nvidia || failed=1; \
	exit $$failed

soak: .venv/installed-dev built ## run the long tests of reliability: kills, signals, damage, memory
	$(BIN)/python -m pytest -m soak --ignore tests/nvidia
	$(BIN)/python -m pytest -m soak tests/nvidia

check: .venv/installed-dev built ## format, lint, types and the rules of the house
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	find native -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture
	@if ! command -v npm > /dev/null; then echo "the studio's page is not checked: npm is not installed"; \
	elif ! test -d frontend/node_modules; then echo "the studio's page is not checked: npm ci has not run"; \
	else cd frontend && npm run --silent check && npm test --silent; fi

# CONFIG: a folder with config.json; TOKENIZER: one with tokenizer.json; DATA: a file of alpaca rows.
# OUTPUT, if given: where the figures go as JSON. BENCH_ARGS="--sides danlu,loop --steps 1" is quicker.
bench-train: bench-places .venv/installed-dev ## training speed next to LLaMA-Factory and a plain loop
	$(BIN)/python -m benchmarks.train --config "$(CONFIG)" --tokenizer "$(TOKENIZER)" --data "$(DATA)" \
		$(if $(OUTPUT),--output "$(OUTPUT)") $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.neighbours train

# It builds llama.cpp once, some ten minutes. BENCH_ARGS="--sides danlu,transformers" does without.
bench-serve: .venv/installed-dev ## speed of inference next to transformers and llama.cpp
	@test -n "$(CONFIG)" -a -n "$(TOKENIZER)" || { \
		echo "usage: make bench-serve CONFIG=FOLDER TOKENIZER=FOLDER [OUTPUT=FIGURES.json]"; exit 2; }
	$(BIN)/python -m benchmarks.serve --config "$(CONFIG)" --tokenizer "$(TOKENIZER)" \
		$(if $(OUTPUT),--output "$(OUTPUT)") $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.neighbours decode

bench-places:
	@test -n "$(CONFIG)" -a -n "$(TOKENIZER)" -a -n "$(DATA)" || { \
		echo "usage: make bench-train CONFIG=FOLDER TOKENIZER=FOLDER DATA=ROWS.json [OUTPUT=FIGURES.json]"; \
		exit 2; }

starter: .venv/installed-dev ## build the starter model again (up to 90 minutes)
	$(BIN)/python -m tools.starter.build

starter-eval: .venv/installed-dev ## accuracy of the starter model per skill
	$(BIN)/python -m tools.starter.evaluate

studio: built ## build the studio's page, where it is missing or older than its sources

native: ## build the kernels for the CPU, where they are missing or others than their sources
	@$(PYTHON) native/build.py

# Page and kernels. In an instant where there is nothing to do; what fails is said, and stops nothing.
built: .venv/installed
	@$(BIN)/python hatch_build.py

clean: ## remove .venv and the tools' caches; runs and models stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so that an interrupted installation is done again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "danlu needs Python 3.10 or newer: make setup PYTHON=python3.11")'
	PYTHONPATH=src $(PYTHON) -m tools.install --no_check

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c .venv/constraints.txt -e '.[dev]'
	@touch $@
