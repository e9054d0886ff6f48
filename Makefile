# On a machine with Python 3.11 and git, `make demo` and `make test` do everything, inside this folder.
PYTHON := .venv/bin/python
PYTEST_ARGS ?=
# Two workers halve the time; a file's tests stay together, since they share what they compiled.
WORKERS ?= 2
MAKEFLAGS += --no-print-directory

.PHONY: help demo test lint check constraints clean
.NOTPARALLEL:

help:
	@echo "make demo         install into .venv and run the main job on a real model"
	@echo "make test         install into .venv and run every test; PYTEST_ARGS='-m \"not slow\"' for the fast ones"
	@echo "make lint         ruff, and mypy --strict on the package"
	@echo "make check        lint, then test: what CI runs"
	@echo "make constraints  pin the newest versions of everything but torch"
	@echo "make clean        remove .venv, caches and build products"

demo:
	@sh scripts/setup.sh demo
	@$(PYTHON) scripts/demo.py

test:
	@sh scripts/setup.sh demo,test
	@$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint:
	@sh scripts/setup.sh demo,test
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy --strict

check: lint test

constraints:
	@sh scripts/make_constraints.sh

clean:
	rm -rf .venv build dist *.egg-info ridgeline/native/*.so .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
