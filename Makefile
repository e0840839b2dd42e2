# Everything a newcomer types. Needs Python 3.11 or 3.12, make and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out/demo
RECIPE := examples/demo.toml
# Content must not depend on how many threads a library happens to start.
export TF_CPP_MIN_LOG_LEVEL = 3
export PYTHONUNBUFFERED = 1

.PHONY: demo test test-cluster test-stream lint types install flink prism \
	bench-ingest bench-engine tpu-fit golden clean

demo: $(VENV)/.demo $(OUT)/crawl $(OUT)/checkpoints/generator/config.json
	$(BIN)/xinst refine $(RECIPE) --store $(OUT)/store --runner=FnApiRunner \
		--engine_batch_size=32
	$(BIN)/tfds build x_instruction --imports=tfds_builder.x_instruction \
		--config=demo --data_dir=$(OUT)/tfds --file_format=array_record \
		--beam_pipeline_options=runner=FnApiRunner,engine_batch_size=32
	$(BIN)/xinst report $(OUT)/store --out $(OUT)/report.html
	$(BIN)/python examples/show.py $(OUT)/tfds

$(OUT)/crawl: examples/make_crawl.py $(wildcard examples/pages/* examples/chrome/*) | $(VENV)/.demo
	$(BIN)/python examples/make_crawl.py $@
	@touch $@

$(OUT)/checkpoints/generator/config.json: | $(VENV)/.demo
	$(BIN)/xinst train generator $(RECIPE)

test: $(VENV)/.test lint types
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not cluster and not accelerator"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

install: $(VENV)/.test

# A real Flink cluster on this machine, killed in parts; fifteen minutes on two cores. Needs
# Java 17 and Maven. Prism, a second runner, is built where there is Go; see below.
FLINK := .flink

test-cluster:
ifeq ($(and $(shell command -v java),$(shell command -v mvn)),)
	@echo "SKIPPED: no cluster was tested. It needs Java 17 and Maven, and one is missing."
else
	$(MAKE) $(VENV)/.test $(FLINK)/.installed
	FLINK=$(CURDIR)/$(FLINK) $(BIN)/python -m pytest -q -m cluster tests/deploy
endif

flink: $(FLINK)/.installed

$(FLINK)/.installed: deploy/flink/pom.xml | $(VENV)/.demo
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps \
		--upgrade --target $(FLINK)/dist apache-flink-libraries==1.19.3
	mvn -B -q -f deploy/flink/pom.xml package -Dout=$(CURDIR)/$(FLINK)/job-server
	@touch $@

# A source that grows, on a runner that streams; needs Go. Beam and Prism have one version.
PRISM_VERSION := v2.77.0
export PRISM ?= $(wildcard $(CURDIR)/$(BIN)/prism)

test-stream: $(VENV)/.test $(BIN)/prism
	PRISM=$(CURDIR)/$(BIN)/prism $(BIN)/python -m pytest -q -m cluster tests/beam_pipelines

prism: $(BIN)/prism

$(BIN)/prism: | $(VENV)/.demo
	GOBIN=$(CURDIR)/$(BIN) go install github.com/apache/beam/sdks/v2/go/cmd/prism@$(PRISM_VERSION)

# Installed once for each set of extras; a change of pins or of setup.py renews it.
$(VENV)/.demo: setup.py constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[build]"
	@touch $@

$(VENV)/.test: setup.py constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[test]"
	@touch $@ $(VENV)/.demo

# Eight minutes on two cores. SCALE_PAGES are the pages of the smallest file of the last script, 33 KB
# each; its largest has 16 times as many.
BENCH := out/bench
DATATROVE := .venv-datatrove
SCALE_PAGES := 3750

bench-ingest: $(VENV)/.test $(DATATROVE)/.installed
	$(BIN)/python benchmarks/bench_crawl.py $(BENCH)/crawl
	$(BIN)/python benchmarks/read_speed.py $(BENCH)/crawl
	$(BIN)/python benchmarks/ingest_speed.py $(BENCH)/crawl --datatrove $(DATATROVE)
	$(BIN)/python benchmarks/index_bytes.py --pages 1000
	$(BIN)/python benchmarks/ingest_scale.py $(BENCH)/scale --pages $(SCALE_PAGES)

# datatrove asks for other versions of what we use too, so it lives apart.
$(DATATROVE)/.installed:
	@test -x $(DATATROVE)/bin/python || $(PYTHON) -m venv $(DATATROVE)
	$(DATATROVE)/bin/python -m pip install --disable-pip-version-check -q \
		"datatrove[io]==0.10.1" "trafilatura>=1.8,<1.12" lxml_html_clean
	@touch $@

# The CPU part of the engine's figures; some fifteen minutes on two cores.
TORCH := .venv-torch

bench-engine: $(VENV)/.test $(TORCH)/.installed
	$(BIN)/python benchmarks/engine_parity.py
	$(BIN)/python benchmarks/engine_counts.py
	$(BIN)/python benchmarks/engine_speed.py --torch $(TORCH)/bin/python
	$(BIN)/python benchmarks/gpu_engine.py --small --torch $(TORCH)/bin/python

# What parity is tested against; the files are in the repository, the tests need no torch.
golden: $(TORCH)/.installed
	$(TORCH)/bin/python tests/xinst_jax/golden/make_golden.py

# The index has torch for CUDA alone, of 5.6 GB; it runs without a GPU.
$(TORCH)/.installed:
	@test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --disable-pip-version-check -q \
		torch==2.15.0 transformers==5.12.1 numpy==2.2.6 safetensors==0.8.0
	@touch $@

# Needs no TPU: the TPU's compiler runs anywhere. Of Google Cloud's terms, so apart.
TPU := .venv-tpu

tpu-fit: $(TPU)/.installed
	$(TPU)/bin/python benchmarks/tpu_fit.py

$(TPU)/.installed:
	@test -x $(TPU)/bin/python || $(PYTHON) -m venv $(TPU)
	$(TPU)/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt \
		-e ".[train,tpu-fit]"
	@touch $@

clean:
	rm -rf out $(VENV) $(FLINK) $(DATATROVE) $(TORCH) $(TPU)
