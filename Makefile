# Each target sets itself up: a virtual environment under $(VENV), installed once per change of the files below.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
TEST := $(VENV)/.installed-test
# --no-compile: byte code of the modules that are used is made when they are first imported; making all of it takes longer.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable ./miniatures --editable
DEMO_ARGS ?=
# A file's tests stay together, for the fixtures that they share; files begin in the order of pyproject's testpaths.
TEST_ARGS ?= --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check lint clean

demo: $(CORE)
	$(BIN)/hf-mllm-aug demo $(DEMO_ARGS)

test: $(TEST)
	$(BIN)/python -m pytest $(TEST_ARGS)

check: lint test

lint: $(TEST)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist demo-output

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Order-only on the interpreter: its time stamp is the system's and says nothing.
$(CORE): pyproject.toml constraints.txt miniatures/pyproject.toml | $(BIN)/python
	@echo "Installing the packages into $(VENV); only the first time takes minutes."
	$(PIP_INSTALL) .
	@touch $@

# The test environment holds everything that the demo needs.
$(TEST): pyproject.toml constraints.txt miniatures/pyproject.toml | $(BIN)/python
	@echo "Installing the packages and the test tools into $(VENV); only the first time takes minutes."
	$(PIP_INSTALL) '.[test]'
	@touch $(CORE) $@
