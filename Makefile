# make run            clone -> results/report.html (SIZE=smoke|fast|long|gpu for another size)
# make test           unit tests and the smoke workflow
# Everything is installed into $(VENV) inside the clone; a second call installs nothing.

PYTHON ?= python3
VENV ?= .venv
CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
TEST_PROCESSES ?= 2
SIZE ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.mneme-installed
OVERLAY := $(if $(SIZE),--configfile config/$(SIZE).yaml)
RESULTS := results$(if $(SIZE),/$(SIZE))
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) $(OVERLAY)
BENCHMARKS := mixed_forward generate protocol training_step suite zeros zeros_height zeta_training zeta_rollout \
	ttt_adaptation ttt_cost lattice dry_run
SNAKEFILES := Snakefile $(wildcard rules/*.smk)

.PHONY: install run test check smoke bench report clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

run: $(STAMP)
	$(SNAKEMAKE)
	$(BIN)/mneme claims $(RESULTS)

smoke: $(STAMP)
	$(MAKE) run SIZE=smoke

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile -m "not slow and not gpu and not slurm"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check $(SNAKEFILES)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(SNAKEMAKE) --lint

bench: $(STAMP)
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py; done

report: $(STAMP)
	$(SNAKEMAKE) $(RESULTS)/report.html
	$(SNAKEMAKE) --report $(RESULTS)/workflow.html

clean:
	rm -rf results .snakemake .pytest_cache .hypothesis .ruff_cache
