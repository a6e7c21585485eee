# Every target makes and keeps its own virtual environment in .venv; nothing has to be installed first but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
DOCS_STAMP := $(VENV)/.installed-docs
INTEGRATIONS_STAMP := $(VENV)/.installed-integrations

# Real data sets are used from L2O_DATA; a neighbouring shared/data folder is taken when it is there.
ifndef L2O_DATA
ifneq ($(wildcard ../shared/data),)
export L2O_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: demo test test-slow test-integrations sanitize lint format bench docs evidence clean

# The constraints as variables, not as an option: so they also hold for what builds the package, in its own environment.
INSTALL := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check

$(STAMP): pyproject.toml constraints.txt native/CMakeLists.txt src/l2o/kernels/lstm.cpp
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "l2o needs Python 3.11 or newer; pass PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable '.[test,lint]'
	@ls src/l2o/kernels/*.so >/dev/null 2>&1 || echo "No native kernel was built: l2o uses its PyTorch reference, which is" \
		"slower. The reason is in the output of: $(BIN)/python -m pip install --verbose --no-deps --editable ."
	touch $(STAMP)

demo: $(STAMP)  ## meta-train on the embedded digits, compare with tuned Adam, write a report to demo/
	$(BIN)/l2o demo

test: $(STAMP)  ## all tests but the slow ones, with coverage
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --durations=5

test-slow: $(STAMP)  ## the slow tests too
	$(BIN)/python -m pytest -n 2 --slow

$(INTEGRATIONS_STAMP): $(STAMP)
	$(INSTALL) --editable '.[integrations]'
	touch $(INTEGRATIONS_STAMP)

test-integrations: $(INTEGRATIONS_STAMP)  ## inside the frameworks, and reports in a browser; skipped counts as failed
	$(BIN)/python scripts/browser.py
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/integrations --durations=5 --junitxml=build/integrations.xml
	$(BIN)/python scripts/frameworks_table.py build/integrations.xml --check

# Python knows nothing of either library, so they are loaded first; libstdc++ too, or torch's exceptions crash.
SANITIZERS = $(shell $(CXX) -print-file-name=libasan.so):$(shell $(CXX) -print-file-name=libstdc++.so)

sanitize: $(STAMP)  ## the kernel's tests under the address and undefined-behaviour sanitizers (GCC, Linux)
	rm -rf build/sanitize
	CXX=$(CXX) $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings cmake.define.L2O_SANITIZE=ON --config-settings cmake.build-type= \
		--config-settings build-dir=build/sanitize --wheel-dir build/sanitize .
	ls build/sanitize/_lstm_avx2.so build/sanitize/_lstm_avx512.so
	LD_PRELOAD=$(SANITIZERS) ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=1 L2O_KERNEL_FOLDER=$(CURDIR)/build/sanitize \
		$(BIN)/python -m pytest tests/kernels

lint: $(STAMP)  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BENCH_STAMP): $(STAMP)
	$(INSTALL) --editable '.[bench]'
	touch $(BENCH_STAMP)

bench: $(BENCH_STAMP)  ## the engine beside eager PyTorch, torch.compile and JAX: docs/performance.md, results/bench/
	$(BIN)/python -m benchmarks
	$(BIN)/python scripts/update_readme.py

$(DOCS_STAMP): $(STAMP)
	$(INSTALL) --editable '.[docs]'
	touch $(DOCS_STAMP)

docs: $(DOCS_STAMP)  ## the site in build/site, every link checked
	$(BIN)/python scripts/stage_docs.py
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

evidence: $(STAMP)  ## the slow proofs: kills, corruptions, planted faults, distributions (about an hour)
	$(BIN)/python scripts/kill_and_resume.py
	$(BIN)/python scripts/kill_a_rank.py
	$(BIN)/python scripts/corrupt_files.py
	$(BIN)/python scripts/plant_faults.py
	$(BIN)/python scripts/compare_backends.py
	$(BIN)/python scripts/check_distribution.py

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .coverage src/l2o/kernels/*.so
	find native -mindepth 1 -not -path native/CMakeLists.txt -delete
