# Two commands: `make demo` shows the library at work, `make test` runs everything CI runs but lint.

PYTHON ?= python3
BIN := .venv/bin
# As the onceedit command does for itself: large buffers in huge pages, where the C library knows them.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test lint docs bench clean

demo: .venv/core
	$(BIN)/onceedit demo

# Two processes: compiling, which takes most of the time, keeps one core busy each. A file's tests
# stay together, so that what they share is made once; waiting threads sleep rather than spin.
# A program that runs once on a tiny model is not worth optimising (half the time), real models' are.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile
test: .venv/test
	XLA_FLAGS=--xla_backend_optimization_level=0 $(PYTEST) -m "not slow"
	$(PYTEST) -m slow

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/. A warning (a broken link, an unknown name) is an error.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Edits a plug-in for the purpose; leave the machine alone meanwhile. With PyTorch, for its peers.
BENCHMARKS := transfer_tables fused_step search generation peers editing_step growth
bench: .venv/bench
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name; done
	$(BIN)/python -m benchmarks.startup --edited runs/bench/plugin

# A stamp per extra, newer than pyproject.toml: installs happen once.
.venv/core: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/test: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

.venv/lint: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lint]'
	@touch $@

.venv/docs: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

.venv/bench: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

clean:
	rm -rf .venv runs site
