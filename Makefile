# Every chore is one word. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
CORE := requirements/core.txt
DEV := requirements/dev.txt
# A stamp carries the lock's hash in its name, so that a changed lock is installed anew and an unchanged one never is.
CORE_STAMP := .venv/core-$(shell cksum $(CORE) requirements/uv.txt pyproject.toml | cksum | cut -d' ' -f1)
DEV_STAMP := .venv/dev-$(shell cksum $(DEV) requirements/uv.txt pyproject.toml | cksum | cut -d' ' -f1)
# The system's certificates, so that set-up works behind a proxy that has its own.
INSTALL := $(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

# Seconds after which a slow proof counts as hung; a test of `make test` does after the two minutes of pyproject.toml.
LONG := 3000

.PHONY: help demo test conformance torture fuzz lint types format bench bench-quick bench-guard limits bench-gateway lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt

$(CORE_STAMP): | .venv/bin/uv
	$(INSTALL) --require-hashes -r $(CORE)
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_STAMP): | .venv/bin/uv
	$(INSTALL) --require-hashes -r $(DEV)
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(CORE_STAMP)  ## the main job on text that every Python carries; no key, no network
	$(BIN)/penstock demo

test: $(DEV_STAMP) lint types  ## lint, types, import contracts and all fast tests
	$(BIN)/pytest -n auto --dist worksteal -m "not conformance"

conformance: $(DEV_STAMP)  ## the slow proofs: a million rows, real clients and servers in environments of their own
	$(BIN)/pytest --timeout $(LONG) -m conformance

fuzz: $(DEV_STAMP)  ## arbitrary bytes at every door, for longer
	PENSTOCK_FUZZ_EXAMPLES=2000 $(BIN)/pytest --timeout $(LONG) -n auto tests/fuzz

torture: $(DEV_STAMP)  ## the same proofs for longer: 1,000 kills, 10,000 losses of power, 100,000 cancels, 200 signals
	PENSTOCK_CANCELS=100000 PENSTOCK_SIGNALS=200 $(BIN)/pytest --timeout $(LONG) -n auto tests/endings
	PENSTOCK_KILLS=1000 $(BIN)/pytest --timeout $(LONG) tests/journeys/test_kill.py -s
	PENSTOCK_STATES=10000 $(BIN)/pytest --timeout $(LONG) -n auto --dist worksteal tests/durability

lint: $(DEV_STAMP)  ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(DEV_STAMP)  ## mypy, strict
	$(BIN)/mypy

format: $(DEV_STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV_STAMP)  ## what a call costs beside the floor and what people use instead; writes docs/benchmarks.md (half an hour)
	$(BIN)/python bench/run.py --write docs/benchmarks.md

bench-quick: $(DEV_STAMP)  ## the same, under two minutes, rougher, to the terminal
	$(BIN)/python bench/run.py --quick

bench-guard: $(DEV_STAMP)  ## instructions a call, beside those kept in bench/guard.json
	$(BIN)/python bench/guard.py

limits: $(DEV_STAMP)  ## how well a limit is filled, and what is throttled, beside the SDK, LangChain and LiteLLM
	$(BIN)/python bench/limits.py

bench-gateway: $(DEV_STAMP)  ## our gateway beside LiteLLM's proxy, TensorZero, Portkey and none; writes docs/gateway-benchmarks.md
	$(BIN)/python bench/gateway.py --write docs/gateway-benchmarks.md

lock: | .venv/bin/uv  ## compile the requirements again
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --all-extras requirements/dev.in pyproject.toml -o $(DEV)
	$(COMPILE) -c $(DEV) requirements/build.in pyproject.toml -o $(CORE)
	for name in conformance-openai2 conformance-openai3 conformance-litellm conformance-langchain conformance-notebook conformance-llm conformance-schemathesis bench-tenacity bench-langchain bench-aiohttp bench-gateway-tensorzero; do \
		$(COMPILE) requirements/$$name.in -o requirements/$$name.txt || exit 1; done

clean:  ## forget the environment and the caches
	rm -rf .venv .venv-conformance .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis
