# Two commands do all set-up on a fresh machine: `make reproduce` and `make test`.
PYTHON  ?= python3
PROFILE ?= quick
COHORT  ?=   # empty: each chapter's own, a simulated one
VENV    ?= .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/installed
# The chapters whose figures are published from real recordings, and how they are run.
PUBLISHED         ?= 01_cohorts 02_protocol 04_tsta 05_tsta_ablation 06_xmae 07_xmae_transfer 09_ssltsg_fusion 10_cgdmer 11_cgdmer_zeroshot 12_tsta_promises
PUBLISHED_PROFILE ?= paper
PUBLISHED_COHORT  ?= mimic_perform_af
COHORT_06_xmae           ?= open_pairs
COHORT_07_xmae_transfer  ?= open_pairs
COHORT_09_ssltsg_fusion  ?= open_12lead
COHORT_10_cgdmer         ?= ptb_xl_text
COHORT_11_cgdmer_zeroshot ?= ptb_xl_text
OPTIONS_04_tsta          ?= -p also activity
OPTIONS_05_tsta_ablation ?= -p clock_profile quick -p also ""
OPTIONS_09_ssltsg_fusion ?= -p also switches
publish = $(BIN)/papermill nbs/$(1).ipynb build/$(1).ipynb -p profile $(PUBLISHED_PROFILE) \
  -p cohort $(or $(COHORT_$(1)),$(PUBLISHED_COHORT)) -p out figures $(OPTIONS_$(1)) --no-progress-bar </dev/null

.DEFAULT_GOAL := help
.PHONY: help reproduce test lab bench figures readme clean-notebooks clean

help:  ## what can be made (this list)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

# Made anew when the configuration changes; everything in one pip call, so that the pins meet.
$(READY): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] \
	  + "; say which: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[book,dev]'
	@touch $@

reproduce: $(READY)  ## every chapter, executed into build/, with one page of all results
	$(BIN)/python -c "from biossl.book import reproduce as run; \
	  asked = dict(profile='$(PROFILE)', cohort='$(strip $(COHORT))'); \
	  raise SystemExit(not run('build', **{k: v for k, v in asked.items() if v}))"

# One thread a process: two processes run side by side, and small networks only wait for threads.
test: export OMP_NUM_THREADS = 1
test: $(READY)  ## the library's notebooks and the tests
	$(BIN)/nbdev_test --n_workers 2 --skip_file_re '^([_.]|[0-9][0-9]_|bench)'
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

lab: $(READY)  ## open the book in JupyterLab
	$(BIN)/jupyter lab $(LAB_OPTIONS) nbs

bench: $(READY)  ## what things cost, into build/bench.csv, cost.csv (methods), forms.csv
	@mkdir -p build
	$(BIN)/papermill nbs/bench.ipynb build/bench.ipynb -p out build --no-progress-bar </dev/null
	@cat build/bench.csv build/cost.csv build/forms.csv

figures: $(READY)  ## the published results again, into figures/ (needs BIOSSL_DATA)
	@mkdir -p build
	$(foreach chapter,$(PUBLISHED),$(call publish,$(chapter)) &&) true

readme: $(READY)  ## README.md from nbs/index.ipynb
	$(BIN)/python -c "from biossl.book import write_readme; print(write_readme())"

clean-notebooks: $(READY)  ## take outputs, counts and widget state out of all notebooks
	$(BIN)/python -c "from biossl.book import strip_notebooks; print(*strip_notebooks(), sep='\n')"

clean:  ## remove what was built, and the environment
	rm -rf build dist $(VENV) *.egg-info
