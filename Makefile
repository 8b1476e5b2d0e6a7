# Two commands: `make demo` shows the library at work, `make test` runs everything CI runs but lint.

PYTHON ?= python3
# Another interpreter gets an environment of its own: `make test-fast PYTHON=python3.13` makes .venv-3.13.
VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(VERSION))
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
# As the onceedit command does for itself: large buffers in huge pages, where the C library knows them.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test test-fast test-all fuzz lint verifytypes docs bench clean

demo: $(VENV)/core
	$(BIN)/onceedit demo

# Two processes: compiling, which takes most of the time, keeps one core busy each. A file's tests
# stay together, so that what they share is made once. Waiting threads sleep rather than spin. Files
# with few and long tests do not come last, and slow tests share what one process has compiled.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile
# The longest files begin, one on each process; else one process would get both at the end.
LONGEST := $(addprefix tests/,cli/test_demo.py models/test_gguf.py experiments/test_paper_pairs.py)
marked = $(LONGEST) $(filter-out $(LONGEST),$(sort $(shell grep -rlE --include='*.py' 'mark.($(1))' tests)))
REAL := ONCEEDIT_CONVERTED_GB=20 JAX_COMPILATION_CACHE_DIR=$(abspath $(VENV))/compiled $(PYTEST) --no-loadscope-reorder
test: test-fast
	$(REAL) -m slow $(call marked,slow)

# And what takes longer than a check of every change may.
test-all: test
	$(REAL) -m long $(call marked,long)

test-fast: $(VENV)/test
	$(PYTEST) --no-loadscope-reorder -m "not slow and not long"

# Damaged inputs of every format, from a seed: make fuzz SEED=7 INPUTS=500.
SEED ?= 0
INPUTS ?= 2000
fuzz: $(VENV)/test
	PYTHONPATH=tests $(BIN)/python -m fuzzing --seed $(SEED) --inputs $(INPUTS)

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory verifytypes

# How much of the public surface has types, as pyright counts it; under 95% is an error.
verifytypes: $(VENV)/lint
	PATH="$(abspath $(BIN)):$$PATH" pyright --verifytypes onceedit_jax --ignoreexternal --outputjson \
	  | $(BIN)/python .ci/verifytypes.py 95

# The site, into site/. A warning (a broken link, an unknown name) is an error.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Edits a plug-in for the purpose; leave the machine alone meanwhile. With PyTorch, for its peers.
BENCHMARKS := transfer_tables fused_step search generation peers editing_step growth serving evaluation narrow_weights
bench: $(VENV)/bench
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name; done
	$(BIN)/python -m benchmarks.startup --edited runs/bench/plugin
	$(BIN)/python -m benchmarks.loading --edited runs/bench/plugin

# A stamp per extra, newer than pyproject.toml: installs happen once.
$(VENV)/core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	@touch $@

$(VENV)/%: $(VENV)/core
	$(INSTALL) '.[$*]'
	@touch $@

clean:
	rm -rf .venv .venv-* runs site
