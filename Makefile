# make demo: the whole path on bundled real data.  make test: environment if needed, then the tests.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v) >/dev/null 2>&1 && python$(v) -c 'print("python$(v)")' 2>/dev/null)) python3)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out

.PHONY: demo demo-full test lint docs wheel clean machine

demo: machine $(VENV)/.core
	$(BIN)/scoutview demo --out $(OUT)

demo-full: machine $(VENV)/.core
	$(BIN)/scoutview demo --full --out $(OUT)-full

test: machine $(VENV)/.dev lint
	# two workers of one thread each: threads that wait for each other on two cores cost minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel

machine:
	@$(PYTHON) tools/check_machine.py

clean:
	rm -rf $(VENV) build dist site

$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
