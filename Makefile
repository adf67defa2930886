# make demo    sets up and runs the main job on real speech
# make test    sets up and passes the tests
# make bench   times speechssl beside transformers, torchaudio and fairseq2
# make setup   only installs; make an4 AN4=DIR runs egs/an4 (downloads the corpus without DIR)
# make format  formats; make lint checks format and types; make clean removes what setup made
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash

.PHONY: demo test lint format setup an4 bench clean

demo: setup
	egs/core_sounds/run.sh

an4: setup
	egs/an4/run.sh $(if $(AN4),--corpus $(AN4))

bench: setup
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python -m tools.bench exp/bench --require-peers

# One process per core, one thread each: small tests gain nothing from more.
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --durations 10

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || \
	  { echo "error: $(PYTHON) is not Python 3.10 to 3.12; run: make PYTHON=python3.11" >&2; exit 2; }
	@[ -d $(VENV) ] || df -Pk . | awk 'END { if ($$4 < 11e6) { \
	  printf "error: %.1f GB of disk are free, installing needs 11 (8 stay)\n", $$4 / 1e6; exit 2 } }' >&2
	@echo "installing into $(VENV): about 3 GB to download, 8 GB on disk, a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
