# make run     set everything up and serve on http://127.0.0.1:8080
# make test    set everything up and run the tests
# make check   format, lint, types, imports
# make bench   the benchmarks that need no network and no GPU
# PYTHON names the interpreter, ARGS goes to the command: make run ARGS="--port 9090"

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt deploy/setup.sh

RUN_READY := $(VENV)/.ready-run
DEV_READY := $(VENV)/.ready-dev

.DEFAULT_GOAL := help
.PHONY: help setup check format test run demo bench clean

help:
	@sed -n 's/^# //p' Makefile

$(RUN_READY): $(INPUTS)
	@PYTHON="$(PYTHON)" sh deploy/setup.sh local
	@touch $@

$(DEV_READY): $(INPUTS)
	@PYTHON="$(PYTHON)" sh deploy/setup.sh local,providers,train,dev
	@touch $(RUN_READY) $@

setup: $(DEV_READY)

run: $(RUN_READY)
	@$(BIN)/turnwise serve $(ARGS)

demo: $(RUN_READY)
	@$(BIN)/turnwise demo $(ARGS)

check: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(DEV_READY)
	$(BIN)/python -m pytest $(ARGS)

bench: $(DEV_READY)
	@failed=0; for script in benchmarks/*/run.py; do \
		module=$$(echo "$${script%.py}" | tr / .); \
		echo "== $$module"; $(BIN)/python -m "$$module" || failed=1; done; exit $$failed

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
