# Every command works in a fresh clone: what it needs is installed into .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test soak fuzz lint format bench lock clean-data

help: ## list what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): requirements.txt requirements-dev.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; set PYTHON to a Python 3.11 or newer: make PYTHON=python3 …" >&2; exit 1; }
	@test -d $(VENV) || { echo "Making $(VENV) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the locked dependencies …"
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

run: $(INSTALLED) ## serve on 127.0.0.1:8000 with a MongoDB of its own, a demo tenant and a demo chat
	@exec $(BIN)/python -m chat_service.dev

test: $(INSTALLED) ## run all tests, on mongomock and on a real mongod they start themselves
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

soak: $(INSTALLED) ## run the long tests: every fault at every step, failovers under load, races, restarts, fuzzing
	@PATIENCE=1 $(BIN)/python -m pytest -m soak -v
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=40

fuzz: $(VENV)/.installed-fuzz ## fuzz what reads callers' bytes, for FUZZ_SECONDS (600) in all
	@$(BIN)/python -m tests.fuzz

export FUZZ_SECONDS ?= 600

$(VENV)/.installed-fuzz: requirements-fuzz.txt $(INSTALLED)
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-fuzz.txt
	@touch $@

lint: $(INSTALLED) ## check style (ruff), types (mypy) and the import rule (import-linter)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED) ## lay the code out as `make lint` wants it
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)-bench/.installed ## measure DELETE over HTTP against raw pymongo and others' services, in one run
	@$(BIN)/python -m benchmarks.delete
	@$(VENV)-bench/bin/python -m benchmarks.picture

$(VENV)-bench/.installed: benchmarks/requirements.txt $(INSTALLED)
	@echo "Installing what is measured beside it …"
	@$(PYTHON) -m venv $(VENV)-bench
	@$(VENV)-bench/bin/pip install -qq --disable-pip-version-check --require-hashes -r $<
	@touch $@

lock: $(INSTALLED) ## renew requirements*.txt from setup.cfg
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade setup.cfg -o requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade --extra dev setup.cfg -c requirements.txt -o requirements-dev.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade --extra fuzz setup.cfg -c requirements-dev.txt -o requirements-fuzz.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade benchmarks/requirements.in -c requirements-dev.txt -o benchmarks/requirements.txt

clean-data: ## remove the data of `make run`
	@rm -rf .data
