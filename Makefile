# Everything lives in .venv; nothing is installed outside of it except the Debian packages that `make test` asks for.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard router/*.pyx router/*.pxd)

.PHONY: run venv test lint lock bench bench-quick torture fuzz sanitize clean debian-packages

run: venv
	@echo "DICOM on 127.0.0.1:11112 as ROUTER, console on http://127.0.0.1:9180, files in var/archive. In another terminal:"
	@echo "    storescu -aec ROUTER 127.0.0.1 11112 FILE.dcm"
	@echo "    $(BIN)/dicom-router send ROUTER@127.0.0.1:11112 FOLDER"
	@echo "    $(BIN)/dicom-router status"
	@echo "Rules are in rules/; edit them while it runs. Ctrl-C drains and ends."
	$(BIN)/dicom-router run -c router.toml

venv: $(VENV)/.installed

$(VENV)/.installed: $(SOURCES)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dicom-router needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,rich]'
	touch $@

$(VENV)/.fuzz: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,fuzz]'
	touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@

# DCMTK and Orthanc are the peers that tests talk to. Installed only where we may (root on Debian).
debian-packages:
	sh tests/install-peers.sh

test: $(VENV)/.tests debian-packages
	$(BIN)/python -m pytest -n 2 --dist worksteal -q tests

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m deploy.supply audit

# The versions of the default install with their hashes, and its bill of materials.
lock: $(VENV)/.lint
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --no-header --strip-extras --allow-unsafe --output-file requirements.lock pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m deploy.supply sbom

bench: $(VENV)/.tests debian-packages
	$(BIN)/python -m benchmarks.micro_fastpdu
	$(BIN)/python -m benchmarks.micro_rules
	$(BIN)/python -m benchmarks.micro_storage
	$(BIN)/python -m benchmarks.micro_path
	$(BIN)/python -m benchmarks.where
	$(BIN)/python -m benchmarks.scale --json results/scale.json
	$(BIN)/python -m benchmarks.cut_through --rounds 3
	$(BIN)/python -m benchmarks.tls
	$(BIN)/python -m benchmarks.flow --json results/flow.json
	$(BIN)/python -m benchmarks.picture results/flow.json results/flow.svg

# About two minutes: the two sizes that matter most, against the machine and DCMTK.
bench-quick: $(VENV)/.tests debian-packages
	$(BIN)/python -m benchmarks.flow --rounds 2 --scale 0.25 --sizes 16KiB,512KiB --systems limit,router,storescp

# SECONDS for each target of the fuzzer; with clang the native modules are looked into too.
SECONDS ?= 60
# All campaigns; or those of TESTS, of another size: make torture TESTS=tests/torture/test_sigkill.py ARGS="--amount kills=50"
TESTS ?= tests/torture tests/simulation tests/hostile tests/fuzz tests/sanitize tests/web tests/net/test_tls.py \
	tests/integration/test_interop.py
ARGS ?=
torture: $(VENV)/.tests $(VENV)/.fuzz debian-packages
	$(BIN)/python -m pytest -q -s --torture $(ARGS) $(TESTS)
ifeq ($(origin TESTS),file)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --record
endif
	$(BIN)/python -m tests.torture.figures

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# The native modules under AddressSanitizer and UndefinedBehaviorSanitizer: their tests and the corpora of the fuzzer.
sanitize: $(VENV)/.tests debian-packages
	$(BIN)/python -m pytest -q -s tests/sanitize --torture

clean:
	rm -rf build *.egg-info router/*.so router/*.c $(VENV)
