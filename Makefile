# Everything a person or CI does with headrace. `make` lists the verbs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3.11
UV_VERSION := 0.13.8
UV := .uv/bin/uv
BIN := .venv/bin
PACKAGES := schemas features pipelines serving monitoring infra
# Passed on to the verb, for example: make demo ARGS=--chaos
ARGS ?=

export OMP_NUM_THREADS ?= 1

.PHONY: help
help: ## list the verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-7s %s\n", $$1, $$2}'

.PHONY: demo
demo: .venv/.ready jars ## New York flights, end to end, on the real engines (ARGS=--chaos, --keep)
	$(BIN)/headrace demo $(ARGS)

.PHONY: test
test: .venv/.ready jars ## the tests: unit, property, behaviour on real engines, one short end to end
	$(BIN)/python -m pytest $(ARGS)

.PHONY: nightly
nightly: .venv/.ready jars ## the tests that take too long for every change
	$(BIN)/python -m pytest -m nightly $(ARGS)

# Types beside the tests, which wait for engines much of their time.
.PHONY: check
check: lint imports ## exactly what CI runs: lint, types, import rules, tests
	$(MAKE) --no-print-directory --jobs=2 types test

.PHONY: bench
bench: .venv/.ready jars ## the benchmarks under tests/benchmarks; writes benchmarks/results.json and the tables
	$(BIN)/python -m pytest tests/benchmarks -o python_files="bench_*.py" -s -q $(ARGS)
	$(BIN)/python -m tests.benchmarks.table

CASES ?=
SEEDS ?= 1

.PHONY: faults
faults: .venv/.ready jars ## the fault cases of docs/faults.md (CASES=18,27, SEEDS=3; default: all, one seed)
	$(BIN)/python -m tests.faults $(if $(CASES),--cases $(CASES)) --seeds $(SEEDS) $(ARGS)

.PHONY: up
up: .venv/.ready jars ## start the local stack
	$(BIN)/headrace up $(ARGS)

.PHONY: down
down: .venv/.ready ## stop the local stack; leaves no process
	$(BIN)/headrace down $(ARGS)

.PHONY: fmt
fmt: .venv/.ready ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lint
lint: .venv/.ready ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
# Tests are files, not packages: their names are found from the root, as pytest finds them.
types: .venv/.ready
	$(BIN)/mypy --strict --explicit-package-bases $(PACKAGES) tests

.PHONY: imports
imports: .venv/.ready
	$(BIN)/lint-imports

.PHONY: lock
lock: | $(UV) ## resolve pyproject.toml into requirements.lock; what fits stays as it is
	$(UV) pip compile --quiet pyproject.toml --group dev --python-version 3.11 --generate-hashes --no-header \
		--output-file requirements.lock

# --- what the verbs stand on; each is made once ------------------------------------------------------------------

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not on PATH; install Python 3.11, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.synced: requirements.lock | $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@touch $@

# Editable and without dependencies: the lock alone decides what is installed.
.venv/.ready: .venv/.synced pyproject.toml
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: jars
jars: .headrace/jars/.ready .headrace/jars/flink/headrace-functions.jar

.headrace/jars/.ready: infra/local/pom.xml
	@command -v mvn >/dev/null || { echo "make: mvn is not on PATH; install Maven 3.8 or newer (Debian: apt install maven)" >&2; exit 1; }
	mvn --quiet --batch-mode --file infra/local/pom.xml package -Djars="$(CURDIR)/.headrace/jars"
	@touch $@

# What SQL lacks in a feature job, compiled against the very Flink that the wheel carries.
FUNCTIONS := $(wildcard pipelines/java/headrace/*.java)
.headrace/jars/flink/headrace-functions.jar: $(FUNCTIONS) .headrace/jars/.ready | .venv/.ready
	@command -v javac >/dev/null || { echo "make: javac is not on PATH; install a JDK 17 or newer (Debian: apt install openjdk-17-jdk-headless)" >&2; exit 1; }
	rm -rf .headrace/classes
	javac --release 17 -Xlint:all -Werror -d .headrace/classes $(FUNCTIONS) \
		-classpath "$$($(BIN)/python -c 'from infra.local.flink import flink_home; print(flink_home())')/lib/*"
	jar --create --file $@ -C .headrace/classes .
