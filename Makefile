# Everything runs in .venv. Set PYTHON to choose the interpreter (3.11 or newer), and
# SYSTEM_SITE=1 to use the torch that this interpreter already has (a CPU build, say).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run check test test-all rota lab docs notebooks readme bench gpu load clean

run: $(READY)           ## three notebooks of the DANN chapter, the shortest first: claims, notebooks, pages in runs/
	$(BIN)/xfer run dann/moons dann/dann dann/digits

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=15 --durations-min=1

check: $(READY)         ## before a commit, under 5 minutes: rules that read the files, and the unit tests
	$(BIN)/ruff check
	$(PYTEST) -n 2 --dist worksteal -m "not slow and not full and not benchmark"

test: $(READY)          ## what CI runs: also every lesson, every lab in its smallest size, the wheel, the site in a browser
	$(BIN)/ruff check
	$(PYTEST) -n 2 --dist worksteal -m "not full and not benchmark"

test-all: $(READY)      ## everything: also all cells doubled, every page, JupyterLab, what is killed and resumed, the benchmarks, the rota
	$(BIN)/ruff check
	$(PYTEST) -n 2 --dist worksteal -m "not benchmark"
	$(PYTEST) -m benchmark
	$(BIN)/python tools/rota.py

rota: $(READY)          ## a seventh of the labs in full, chosen by the date, against their records
	$(BIN)/python tools/rota.py

lab: $(READY)           ## JupyterLab on the course
	$(BIN)/xfer lab

docs: $(READY)          ## the site, in _docs: notebooks and API reference, rendered by Quarto
	$(BIN)/python tools/docs.py

notebooks: $(READY)     ## export the modules, execute the notebooks whose code has changed
	$(BIN)/nbdev_export
	$(BIN)/python tools/notebooks.py
	$(BIN)/nbdev_clean

readme: $(READY)        ## write the chapters and their headline claims into README.md
	$(BIN)/xfer results --readme README.md

bench: $(READY)         ## every claim of speed and memory, beside plain forms and the libraries that are installed
	$(BIN)/python -m benchmarks --out data/benchmarks.json

gpu: $(READY)           ## the gpu profile of every lab, unattended, most wanted first; resumes; LABS="dann/mnist_m ..."
	$(BIN)/python tools/gpu.py $(LABS)

load: $(READY)          ## the whole course in smoke and the suite: seconds, slowest cells, memory
	$(BIN)/python tools/load.py course
	$(BIN)/python tools/load.py suite

clean:                  ## remove what was built; .venv and data stay
	rm -rf runs build dist _proc _docs _site *.egg-info .pytest_cache

$(READY): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is %s. Try: make PYTHON=python3.12 ..." % sys.version.split()[0])'
	@echo "Setting up $(VENV), once: pip says below what it fetches; torch alone is several GB where its CUDA build is installed."
	$(PYTHON) -m venv $(if $(SYSTEM_SITE),--system-site-packages) $(VENV)
ifdef SYSTEM_SITE
	@$(BIN)/python -c 'import torch, torchvision' 2>/dev/null || { echo 'SYSTEM_SITE=1 needs an interpreter (no virtual environment) in which both torch and torchvision of one build can be imported: install both there, name it with PYTHON=..., or leave SYSTEM_SITE out.' >&2; rm -rf $(VENV); exit 1; }
	@$(BIN)/python -c 'from importlib.metadata import version; print(*(f"{name}=={version(name)}" for name in ("torch", "torchvision")), sep="\n")' > $(VENV)/keep.txt
endif
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --editable '.[dev]' $(if $(SYSTEM_SITE),--constraint $(VENV)/keep.txt)
	@touch $@
	@echo "$(VENV) is ready."
