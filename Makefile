# All targets work on a fresh machine with python3 (3.11 to 3.13) and make, and nothing else.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help demo test conformance models mutate fuzz fuzz-bytes bench

help:  ## Say what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## Compile the digits classifier, run it, and show what came out.
	$(BIN)/python samples/digits/demo.py

test: $(STAMP)  ## Run the tests, the linters and the type checks.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2

conformance: $(STAMP)  ## Run onnx's own backend suite (FILTER=regex: a part), write docs/conformance.md.
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.conformance --filter "$(FILTER)" $(ARGS)

models: $(STAMP)  ## Compile real models of the registry (NAME="a b": some), write docs/models.md.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[models]'
	$(BIN)/python -m tests.acceptance $(NAME) $(ARGS)

mutate: $(STAMP)  ## Change N (30000) fields of programs at random: verifier, engines and interpreter agree.
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.mutation -n $(or $(N),30000) --seed $(or $(SEED),0)

fuzz: $(STAMP)  ## Compile and run N (2000) random ONNX graphs, from SEED (0): engines and references agree.
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m fuzz graphs -n $(or $(N),2000) --seed $(or $(SEED),0)

fuzz-bytes: $(STAMP)  ## T (60) seconds each of hostile programs, words, listings and machines, by coverage.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	$(BIN)/python -m fuzz hostile
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m fuzz bytes -t $(or $(T),60)

bench: $(STAMP)  ## Measure schedules (NAME="a b": some), Arm Vela and the engine, write docs/benchmarks.md.
	$(BIN)/python -m benchmarks schedules $(NAME) $(ARGS)
ifndef NAME
	$(BIN)/python -m benchmarks peers
	$(BIN)/python -m benchmarks engine --write
endif

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	  "Clockstep needs Python 3.11 to 3.13; $(PYTHON) is %d.%d. Try: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
