# Every target sets up .venv with everything first; CI runs `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
PYTEST_FLAGS ?= -n auto

.PHONY: help install demo test test-long lint format bench families clean

help:
	@echo "make demo              plan, inspect and execute the sweep of tools/demo"
	@echo "make test              lint, types, import contract and tests, as CI runs them"
	@echo "make test-long         what takes minutes: runs killed and disks full at every moment, soak, thousands of mutants of plans"
	@echo "make lint              the same without the tests"
	@echo "make format            reformat the source"
	@echo "make families          every family of transformers, to the bit: tools/families/TABLE.md (resumable, under an hour)"
	@echo "make bench NAME=...    one benchmark of tools/bench; its last line is a JSON object"

$(INSTALLED): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(VENV)/source && ln -sfn ../.. $(VENV)/source/hydraplan  # where mypy finds the package
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python -m hydraplan.tools.demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-long: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long $(PYTEST_FLAGS)

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	@test -n "$(NAME)" || { echo "make bench NAME=..., one of: $$(ls tools/bench/*.py | xargs -n1 basename -s .py | grep -v '^_' | xargs)" >&2; exit 2; }
	$(BIN)/python -m hydraplan.tools.bench.$(NAME)

families: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m hydraplan.tools.families

clean:
	rm -rf $(VENV) build *.egg-info
