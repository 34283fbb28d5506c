# Everything a developer needs: each target works in a fresh clone and installs what it needs into .venv.
BIN := .venv/bin
SITES := server site-1 site-2
RESULTS := results/fedavg
FLARE_PLUGINS := process docker gpu_resources k8s nvflare
PROJECTS := $(wildcard pyproject.toml core/pyproject.toml plugins/*/pyproject.toml)
ARGS :=

unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV
export UV_PYTHON_DOWNLOADS := never

.PHONY: help demo demo-docker demo-k8s demo-nvflare test check docs bench tox clean

help:
	@echo "make demo    run the example: federated averaging over three sites"
	@echo "make demo-docker  the same, with one of the sites in a Docker container"
	@echo "make demo-k8s     the same, with the clients as pods of a Kubernetes cluster"
	@echo "make demo-nvflare  a federation of NVIDIA FLARE whose sites launch their jobs through siteward"
	@echo "make test    run all tests (ARGS='-k name' for some of them)"
	@echo "make check   lint, types and layers"
	@echo "make docs    build the documentation and run its examples"
	@echo "make bench   measure the process backend beside other launchers, and the resource managers"
	@echo "make tox     core alone, each plugin, oldest versions, built wheels, every Python found"
	@echo "make clean   remove what these made"

demo: .venv/.demo
	@rm -rf $(RESULTS)
	$(BIN)/siteward run examples/fedavg/job.yaml $(SITES:%=--site examples/fedavg/sites/%.yaml) --follow --output $(RESULTS)
	$(show-results)

demo-docker: RESULTS := results/fedavg-docker
demo-docker: .venv/.dev
	@scripts/system-packages
	@rm -rf $(RESULTS)
	$(BIN)/python -m tests.engine $(BIN)/siteward run examples/fedavg/job-docker.yaml $(SITES:%=--site examples/fedavg/sites/docker/%.yaml) --follow --output $(RESULTS)
	$(show-results)

demo-k8s: RESULTS := results/fedavg-k8s
demo-k8s: .venv/.dev
	@scripts/system-packages
	@rm -rf $(RESULTS)
	$(BIN)/python -m tests.cluster $(BIN)/siteward run examples/fedavg/job-k8s.yaml $(SITES:%=--site examples/fedavg/sites/k8s/%.yaml) --follow --output $(RESULTS)
	$(show-results)

demo-nvflare: .venv-nvflare/.made
	.venv-nvflare/bin/python -m tests.plugins.nvflare

define show-results
	@echo
	@echo "Results, one folder a site, are in $(RESULTS)/:"
	@cd $(RESULTS) && ls -1 server/accuracy.png */metrics.json
	@$(BIN)/python -c 'import json; print("accuracy:", round(json.load(open("$(RESULTS)/server/metrics.json"))["accuracy"], 4))'
endef

test: .venv/.dev
	@scripts/system-packages || echo "some tests will be skipped"
	$(BIN)/python -m pytest $(ARGS)

check: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict core/src $(wildcard plugins/*/src) tests/typing
	$(BIN)/pyright --pythonpath $(BIN)/python tests/typing
	$(BIN)/lint-imports

docs: .venv/.docs
	$(BIN)/sphinx-build -q -W -b doctest docs docs/_build/doctest
	$(BIN)/sphinx-build -q -W -b html docs docs/_build/html
	@echo "The documentation is in docs/_build/html/index.html"

bench: .venv/.dev
	$(BIN)/python bench/process.py $(ARGS)
	$(BIN)/python bench/resources.py

tox: .venv/.dev
	$(BIN)/tox run $(ARGS)

# An environment is rebuilt when a project file has changed since.
.venv/.demo: scripts/install $(PROJECTS)
	scripts/install example
	@touch $@

.venv/.dev: scripts/install $(PROJECTS)
	scripts/install dev example
	@touch $@

# NVIDIA FLARE has an environment of its own: nothing else here needs it.
.venv-nvflare/.made: .venv/.dev plugins/nvflare/pyproject.toml Makefile
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-nvflare
	$(BIN)/uv pip install --quiet --python .venv-nvflare/bin/python --group test $(FLARE_PLUGINS:%=-e plugins/%) -e core
	@touch $@

.venv/.docs: scripts/install $(PROJECTS)
	scripts/install docs test example
	@touch $@

clean:
	rm -rf .venv .venv-nvflare .tox .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .cache
	rm -rf results dist docs/_build examples/fedavg/sites/state examples/fedavg/sites/*/state
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
