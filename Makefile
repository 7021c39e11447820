# Every way into this repository. `make` alone lists them; each works in a fresh clone.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
COMPILE := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock"

.PHONY: help setup dev demo test lint format schemas docs bench kafka compose image lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with gavotte in it (needs Python 3.11+ and git; no root)
	@deploy/setup.sh requirements.lock

dev: ## the same, with the tools of the tests
	@deploy/setup.sh requirements-dev.lock

demo: setup ## watch four processes fix, review and deploy a bundled sample
	@$(BIN)/gavotte demo

test: lint ## every check and every test
	$(BIN)/python -m pytest

lint: dev ## style, types and the rules between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: dev ## let ruff lay out the code and fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: dev ## write the Avro schemas of unreleased events from their classes
	$(BIN)/python -m contracts.schemas.generate

docs: dev ## write the generated parts of docs/ from the code
	$(BIN)/python docs/generate.py

bench: setup ## measure ours beside its peers, and write docs/performance.md (half an hour; java and mvn for Kafka)
	$(BIN)/python bench/run.py --save
	$(BIN)/python docs/generate.py

kafka: ## run a Kafka broker, and the servers beside it, without Docker (needs java and mvn)
	@python3 deploy/local/up.py

compose: ## run each agent in a container of its own, on Kafka and PostgreSQL (needs docker)
	deploy/secrets.sh
	docker compose --file deploy/compose.yaml up --build --wait

image: ## build the image without a daemon and run it (root on Debian; some minutes)
	deploy/image-lane.sh

lock: dev ## choose the newest versions that pyproject.toml allows, and pin them by hash
	@command -v $(BIN)/uv >/dev/null || $(BIN)/python -m pip install --quiet uv
	$(BIN)/$(COMPILE) --upgrade --extra build --extra sandbox --output-file requirements.lock
	$(BIN)/$(COMPILE) --upgrade --extra build --extra sandbox --extra dev --constraint requirements.lock \
		--output-file requirements-dev.lock

clean: ## remove what can be made again (.venv stays: rm -rf .venv)
	rm -rf .demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
