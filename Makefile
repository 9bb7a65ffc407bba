# Every target sets up what it needs: a virtual environment in .venv, made once and reused.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAISS ?= cpu
RUNS := runs/demo
DEMO := conditioned unconditioned smoothed_optimal smoothed_scheduled

STUDY := runs/study
STUDY_SEEDS := 42 43
STUDY_RUNS := $(foreach seed,$(STUDY_SEEDS),$(patsubst configs/study/%.yaml,$(STUDY)/%-seed$(seed),\
  $(filter-out configs/study/_%,$(wildcard configs/study/*.yaml))))

.DEFAULT_GOAL := help
.PHONY: help setup demo study test test-long lint format bench docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## make .venv with everything that the other targets need

# torch first and by version: a range would let pip download a newer one.
$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch, torchvision' 2>/dev/null || $(BIN)/pip install --quiet torch==2.14.1 torchvision==0.29.1
	$(BIN)/pip install --quiet --editable '.[$(FAISS),lite,docs,dev]'
	touch $@

demo: setup  ## train four variants on emoji, sample, and compare them (10 minutes on two cores)
	@for variant in $(DEMO); do \
	  if test -e $(RUNS)/$$variant/finished; then echo "$(RUNS)/$$variant is finished; delete it to train again"; \
	  else echo "== $$variant" && $(BIN)/smoothscore fit --config configs/experiment/demo/$$variant.yaml \
	    --trainer.logger.init_args.version $$variant --ckpt_path last && touch $(RUNS)/$$variant/finished || exit 1; fi; \
	done
	$(BIN)/smoothscore compare $(DEMO:%=$(RUNS)/%) --out $(RUNS)/compare
	@echo "open $(RUNS)/compare/report.html"

study: setup  ## train all settings of configs/study, two at a time, and draw memorization against quality (an hour)
	@$(MAKE) --no-print-directory --jobs 2 --keep-going $(STUDY_RUNS:=/finished)
	$(BIN)/smoothscore compare $(STUDY_RUNS) --sort memorized --out $(STUDY)/compare
	@echo "open $(STUDY)/compare/report.html"

# NAME-seedN/finished: one run, one thread, that goes on from its last checkpoint; what it prints is in NAME-seedN/log.
.PRECIOUS: $(STUDY)/%/finished
$(STUDY)/%/finished:
	@run=$*; seed=$${run##*-seed}; mkdir -p $(@D); echo "== $$run"; \
	OMP_NUM_THREADS=1 $(BIN)/smoothscore fit --config configs/study/$${run%-seed*}.yaml --seed_everything $$seed \
	  --data.init_args.seed $$seed --model.init_args.seed $$seed --trainer.logger.init_args.version $$run \
	  --ckpt_path last > $(@D)/log 2>&1 && touch $@ || { tail -n 5 $(@D)/log; echo "failed: $(@D)/log"; exit 1; }

test: setup  ## run the tests
	$(BIN)/pytest

test-long: setup  ## run the tests in their full form (half an hour), and count what was survived in docs/results/robustness.md
	rm -f docs/results/robustness.json
	$(BIN)/pytest tests -m 'slow or not slow' --tally docs/results/robustness.md

lint: setup  ## style, types, and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## print every benchmark's ratios (an idle machine, please)
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: setup  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean:  ## delete runs, caches and the built documentation; .venv stays
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
