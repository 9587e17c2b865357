# make demo: build .venv, edit the shipped image with the embedded prior.   make test: build .venv, run every check.
# make gpu: on a CUDA card, build .venv, run the tests marked gpu and benchmarks/gpu.py, 20 minutes at most.
# the first Python that runs and is new enough
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test gpu clean

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: install one, or set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) scripts/system_packages.py venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e .
	touch $@

$(VENV)/.checks: $(VENV)/.installed
	@# nerfstudio needs a package that has no wheel: without a compiler everything else is installed and checked
	if $(BIN)/python scripts/system_packages.py compiler $(VENV)/.gaps; then \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev,nerf]' && touch $@; \
	else \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	fi

demo: $(VENV)/.installed
	$(BIN)/cpds image --img_path cpds/assets/demo/cat.png \
	  --prompt "a cat face on a blue background" --trg_prompt "a dog face on a blue background"

test: $(VENV)/.checks
	$(BIN)/python scripts/system_packages.py libraries $(VENV)/.gaps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright $$(grep -q Python.h $(VENV)/.gaps && echo cpds svg)
	@# small models on few cores: more threads only get into each other's way
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest
	@$(BIN)/python scripts/system_packages.py report $(VENV)/.gaps

gpu:
	@# asked before anything is installed, and again of the torch that was
	@$(or $(PYTHON),python3) scripts/cuda_device.py
	@$(MAKE) --no-print-directory $(VENV)/.checks
	@$(BIN)/python scripts/cuda_device.py
	@# what the tests take is not left for the rows; a failed test does not keep them from being measured
	began=$$(date +%s); \
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} timeout 600 $(BIN)/pytest -m gpu; tests=$$?; \
	$(BIN)/python -m benchmarks.gpu --since $$began && exit $$tests

clean:
	rm -rf $(VENV) build *.egg-info
