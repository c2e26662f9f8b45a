# Everything a newcomer or a developer types. `make` alone lists it.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# Test files are shared out to this many processes, each with database servers of its own.
JOBS ?= 2
RUNTIME := $(VENV)/.stamp-runtime
TEST := $(VENV)/.stamp-test
DEV := $(VENV)/.stamp-dev

# The first Python that is new enough and really starts: version managers leave shims that do not.
# Looked up only when an environment has to be made.
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 /usr/bin/python3; do \
	"$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
		>/dev/null 2>&1 && { command -v "$$name"; break; }; done)

.PHONY: help run chat test check lint format fuzz bench-smoke clean clean-all

help: ## List these commands
	@echo "First: make run, then open http://127.0.0.1:8420/ in a browser."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUNTIME) ## Start the server with its web app (SQLite, demo AI); installs itself on the first run
	@$(BIN)/python -m server serve $(ARGS)

chat: $(RUNTIME) ## Talk with a persona in a terminal instead, as a fresh demo user
	@$(BIN)/python -m server chat --demo $(ARGS)

test: $(TEST) ## Run the tests, with private MySQL, MariaDB and Redis servers
	@$(BIN)/python -m tests.support.servers fetch
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

check: $(DEV) ## What must be green before a commit: lint and test
	@$(MAKE) --no-print-directory lint test

lint: $(DEV) ## Formatting, lint rules, types and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(TEST) ## The property tests with 20,000 inputs each (minutes)
	@PARLANCE_HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest tests/fuzz --timeout=3600 $(PYTEST_ARGS)

bench-smoke: $(RUNTIME) ## 450 clients for a minute: every view must equal the store
	@$(BIN)/python -m bench.smoke $(ARGS)

clean: ## Remove caches
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean ## Remove caches, the virtual environment and the test servers
	@test ! -x $(BIN)/python || $(BIN)/python -m tests.support.servers purge
	rm -rf $(VENV)

$(VENV)/.stamp-%: setup.cfg .ci/bootstrap.py
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found that can make a virtual" \
		"environment. On Debian and Ubuntu: apt install python3 python3-venv"; exit 1; }
	@$(PYTHON) .ci/bootstrap.py $*
