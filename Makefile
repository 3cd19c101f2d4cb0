# make demo | make web | make test | make lint | make bench: five doors are all one must know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.flmm-installed
WEB_STAMP := $(VENV)/.flmm-web-installed

.DEFAULT_GOAL := help
.PHONY: help demo web test test-all lint bench clean

help:
	@echo "make demo   install into .venv, ground phrases in sample pictures, save outputs/demo"
	@echo "make web    install into .venv, show the page on this machine: http://127.0.0.1:7860"
	@echo "make test   install into .venv and run the tests"
	@echo "make test-all   the same with further, dearer cases (the mark heavy)"
	@echo "make lint   format check, lint and type check"
	@echo "make bench  what pointing costs, on random weights: outputs/benchmark (hours on two cores;"
	@echo "            one part: python tools/benchmark.py read, refine, ask, converse, evaluate, cache, precision)"

# Installed again only when the metadata changes.
$(STAMP): setup.py
	@$(PYTHON) -c "import sys; assert sys.version_info >= (3, 10)" 2>/dev/null || \
		{ echo "flmm needs Python >= 3.10; choose one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/python tools/demo.py

$(WEB_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[web]"
	@touch $@

web: $(WEB_STAMP)
	$(BIN)/python tools/web_demo.py

test: $(STAMP)
	$(BIN)/python -m pytest

test-all: $(STAMP)
	$(BIN)/python -m pytest -m "heavy or not heavy"

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python tools/benchmark.py

clean:
	rm -rf $(VENV) outputs work_dirs
