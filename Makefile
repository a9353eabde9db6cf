# Two commands matter: `make demo` and `make test`. Both do all their own set-up.
# PYTHON may name the interpreter (3.11 or newer); SPECTRA a folder of real spectra for the demo.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
SPECTRA ?=
PYTEST_ARGS ?=

# No library sends anything anywhere.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true

# How long `make chaos` goes on, and what it breaks when: the same seed does the same again.
CHAOS_MINUTES ?= 60
CHAOS_SEED ?=

.PHONY: chaos help demo demo-bad test up setup lint types contracts tests bench screenshots lock clean-state clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo          set up, then run the whole chain from spectra to champion (SPECTRA=folder: on real files)'
	@echo 'make demo-bad      the same chain with a subtly worse model: succeeds when its canary turns it back'
	@echo 'make test          set up, then lint, types, import contracts and tests'
	@echo 'make up            everything a person looks at, on loopback, until Ctrl-C'
	@echo 'make chaos         break releases for an hour (CHAOS_MINUTES=60 CHAOS_SEED=n); docs/reliability.md'
	@echo 'make bench         measure; results go to benchmarks/results/'
	@echo 'make clean-state   forget everything this machine remembers (./.firstlight)'
	@echo 'make lock          resolve requirements.lock anew (needs uv)'

demo: setup
	@$(BIN)/firstlight demo $(if $(SPECTRA),--spectra "$(SPECTRA)")

demo-bad: setup
	@$(BIN)/firstlight demo --bad

up: setup
	@$(BIN)/firstlight up

test: lint types contracts tests

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo 'firstlight needs Python 3.11 or newer: install it, or name it with make PYTHON=/path/to/python3.11'; exit 1; }
	@echo 'setting up .venv from requirements.lock (two to four minutes the first time) ...'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

contracts: setup
	@$(BIN)/lint-imports

# One OpenMP thread a process: two beside other busy processes spin and are slower than one.
tests: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

chaos: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --minutes $(CHAOS_MINUTES) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

bench: setup
	@$(BIN)/python -m benchmarks

# torch stays without a local label, so that pip takes the CPU build where it finds one and the CUDA build elsewhere;
# what only the CUDA build needs is pinned by that build itself, and would be wrong beside the other.
lock:
	@echo '# Every dependency, tested as a whole. Made by `make lock` from pyproject.toml; install with pip.' > requirements.lock
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate --no-header --quiet --output-file .lock.tmp
	@grep -vE '^(nvidia-|cuda-|triton==)' .lock.tmp >> requirements.lock && rm .lock.tmp

clean-state:
	@rm -rf "$${FIRSTLIGHT_STATE_DIR:-.firstlight}"

clean: clean-state
	@rm -rf .venv
