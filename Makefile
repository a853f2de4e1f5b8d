# Two commands do everything on a machine with python3 >= 3.11, make and a package registry:
#   make demo   train five norms on real digits, print the table and write the report
#   make test   the checks and tests that a change must pass

PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.complete

.PHONY: setup demo test test-slurm check lock clean

setup: $(SETUP)

# uv comes through pip, so that nothing but Python itself has to be there
$(SETUP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "normhpc needs Python >= 3.11; this is $$($(PYTHON) -V). Name another one: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(SETUP)

demo: $(SETUP)
	$(BIN)/normhpc sweep sweeps/quickstart.yaml --local
	$(BIN)/normhpc collect runs/quickstart
	@$(BIN)/normhpc report runs/quickstart --out runs/quickstart.html

check: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest

# on a real Slurm that the tests start themselves (Debian: slurm-wlm slurmdbd munge mariadb-server, as root)
test-slurm: $(SETUP)
	NORMHPC_TEST_SLURM=1 $(BIN)/pytest tests/slurm

# new pins, without a word of where they were found
lock: $(SETUP)
	$(BIN)/uv pip compile --quiet --universal --extra dev --no-header --no-emit-index-url --upgrade \
		pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
