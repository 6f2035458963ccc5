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

.PHONY: help demo up test check bench protos lock lint types borders contract buf FORCE

help:
	@echo "make demo [TRACE=file.csv] [OUT=bill.json]   meter and charge a usage trace, print the bill, verify it"
	@echo "make up                                      run the three services and Postgres until Ctrl-C"
	@echo "make test [TESTS=tests/billing]              run the tests on a Postgres of their own"
	@echo "make check                                   lint, types, borders, contract, generated code, migrations"
	@echo "make bench [OUT=figures.json]                measure, side by side with the peers"
	@echo "make protos                                  regenerate the stubs after a change of a proto"
	@echo "make lock                                    resolve requirements.lock after a change of pyproject.toml"

demo: $(READY)
	@$(VENV)/bin/tollhouse demo $(if $(TRACE),--trace "$(TRACE)") $(if $(OUT),--out "$(OUT)")

up: $(READY)
	@$(VENV)/bin/tollhouse up

test: $(READY)
	@$(RUN) pytest -n $(WORKERS) $(TESTS)

bench: $(READY)
	@$(RUN) benchmarks $(if $(OUT),--out "$(OUT)")

protos: $(READY)
	@$(VENV)/bin/python scripts/protos.py

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
	@$(RUN) pytest -q tests/contract

# buf needs Node. Without it the Python tests of the contract still run; the continuous integration has both.
buf:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory buf-run; \
	elif [ -n "$$CI" ]; then echo "buf needs npm, and npm is not on the PATH" >&2; exit 1; \
	else echo "buf: left out, because npm is not on the PATH"; fi

.PHONY: buf-run
buf-run: $(BUF)
	@$(BUF) lint
	@$(BUF) format --diff --exit-code
	@$(BUF) breaking --against protos/released.binpb

$(BUF): package-lock.json
	@npm ci --ignore-scripts --silent
	@touch $@

# Only this target needs uv; the environment itself is installed by pip.
lock:
	@$(RUN) pip install --quiet --upgrade uv
	@$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate --quiet --output-file requirements.lock

# The environment is made once, and again when the lock, the project file or the folder itself changes.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif
$(READY): requirements.lock pyproject.toml scripts/environment.sh
	@sh scripts/environment.sh $(VENV)
