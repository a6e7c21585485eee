# Every target makes and keeps its own virtual environment in .venv; nothing has to be installed first but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench

# Real data sets are used from L2O_DATA; a neighbouring shared/data folder is taken when it is there.
ifndef L2O_DATA
ifneq ($(wildcard ../shared/data),)
export L2O_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: demo test test-slow lint format bench evidence clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "l2o needs Python 3.11 or newer; pass PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint]'
	touch $(STAMP)

demo: $(STAMP)  ## meta-train on the embedded digits, compare with tuned Adam, write a report to demo/
	$(BIN)/l2o demo

test: $(STAMP)  ## all tests but the slow ones, with coverage
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term --durations=5

test-slow: $(STAMP)  ## the slow tests too
	$(BIN)/python -m pytest -n 2 --slow

lint: $(STAMP)  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	touch $(BENCH_STAMP)

bench: $(BENCH_STAMP)  ## the engine beside eager PyTorch, torch.compile and JAX: docs/performance.md, results/bench/
	$(BIN)/python -m benchmarks
	$(BIN)/python scripts/update_readme.py

evidence: $(STAMP)  ## the slow proofs: kills, corruptions, planted faults (about an hour)
	$(BIN)/python scripts/kill_and_resume.py
	$(BIN)/python scripts/corrupt_files.py
	$(BIN)/python scripts/plant_faults.py

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .coverage
