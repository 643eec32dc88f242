# Every command of the hub. `make help` lists them. Each sets up what it needs.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEVICE := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
LOCKS := requirements/$(DEVICE).lock $(if $(filter cpu,$(DEVICE)),requirements/torch-cpu.lock)
STAMP := $(VENV)/installed-$(DEVICE)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps
PEERS := .aihub/bench/encoders/venv
PORT ?=
HOST ?=
DEMO_DATA ?= ../shared/data/online-retail/online_retail.csv.xz
CODE := aihub pipelines deployments training tests benchmarks examples scripts
.DEFAULT_GOAL := help
.PHONY: help install serve test test-unit test-serve chaos lint format typecheck bench bench-retrieval bench-recsys bench-speech bench-train bench-usage demo-shop encoder-peers lock clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## Make .venv and install the pinned lock (CUDA where there is an NVIDIA driver, else CPU)

$(STAMP): $(LOCKS) pyproject.toml
	@scripts/check_machine.sh "$(PYTHON)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing the $(DEVICE) packages into $(VENV) (about 5 GB, a few minutes) ..."
	@if [ $(DEVICE) = cpu ]; then scripts/install_torch_cpu.sh $(BIN)/python; fi
	@$(PIP) --progress-bar on -r requirements/$(DEVICE).lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/installed-* && touch $@
	@echo "Speech: the vosk package brings no models. With the hub: $(BIN)/aihub models download vosk:vi vosk:en (40 MB each)."
	@echo "        Its own command vosk-transcriber wants an ffmpeg program; the hub decodes without one."

serve: install ## Start the hub and wait until it answers; Ctrl-C stops everything (PORT=8001 for another port, HOST=0.0.0.0 for other machines)
	@exec $(BIN)/aihub serve $(if $(PORT),--port $(PORT)) $(if $(HOST),--host $(HOST))

test: install ## Run the tests: unit, contract, then a real cluster with the default models
	@$(MAKE) --no-print-directory test-unit
	@$(MAKE) --no-print-directory test-serve

test-unit: install ## Run the tests that need no cluster, on up to four cores
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/unit tests/contract --numprocesses logical --maxprocesses 4 --dist loadfile

test-serve: install ## Run the tests on a real cluster with the default models
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/serve

chaos: install ## Kill and freeze the parts of a running hub (about half an hour)
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/chaos

lint: install ## Check style, import rules of files, YAML
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/yamllint --strict configs serve_config.yaml cluster.yaml

format: install ## Format the code
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

typecheck: install ## Check the types
	@$(BIN)/mypy

bench: install ## Compare the running path with its bare peers, side by side in one run
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks $(ARGS)

bench-retrieval: install ## Print nDCG@10 for text, vector and hybrid search
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.retrieval_quality

bench-recsys: install ## Print the figures and times of recommendations (ARGS="--only trending")
	@$(BIN)/python -m benchmarks.recsys $(ARGS)

bench-speech: install ## Compare speech with the bare vosk package, and time questions asked by voice (ARGS="--only words speed")
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.speech $(ARGS)

bench-train: install ## Train adapters through a running hub: speed beside a plain loop, recall of facts, banking77 (ARGS="--only facts")
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.finetuning_hub $(ARGS)

bench-usage: install ## Time an echo with and without recording, and figures over 1,000,000 requests (ARGS="--rows 100000")
	@$(BIN)/python -m benchmarks.usage $(ARGS)

encoder-peers: install ## Make the environment of the encoders that `make bench ARGS="--only encoders"` compares with
	@test -x $(PEERS)/bin/python || $(BIN)/python -m venv $(PEERS)
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$$($(PEERS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/hub.pth"
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/encoder-peers.txt

demo-shop: install ## Fill store 1 with a shop to try recommendations (DEMO_DATA=file.csv.xz, made up where it is missing)
	@$(BIN)/aihub recsys demo-shop --from "$(DEMO_DATA)"

lock: ## Resolve requirements/*.in into hashed locks again
	@requirements/lock.sh

clean: ## Remove .venv and the state folder
	@rm -rf $(VENV) .aihub
