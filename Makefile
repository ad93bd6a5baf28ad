SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# What runs, and beside it what tests.
READY := $(VENV)/ready
TESTS_READY := $(VENV)/ready-for-tests
BENCHMARKS := .venv-benchmarks
BENCHMARKS_READY := $(BENCHMARKS)/ready
LOCALSTACK := .venv-localstack
LOCALSTACK_READY := $(LOCALSTACK)/ready

# A user's own modules are not taken for those of the project or of what it uses; and what Python compiled, it keeps:
# without that each process compiles all that it imports, most of the time of a test.
unexport PYTHONPATH PYTHONSTARTUP PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-processes test-deployment test-long lint benchmark slides tour java chromium lock clean

help:
	@echo "make demo        photos in, features out, on this machine"
	@echo "make test        the tests"
	@echo "make test-processes    whole streams as processes, killed at every step"
	@echo "make test-deployment   a deployment to stand-ins for AWS"
	@echo "make test-long   both of these in one run"
	@echo "make lint        ruff, mypy --strict, cfn-lint, the rules of the house"
	@echo "make benchmark   how fast it is, beside other ways to do the same"
	@echo "make slides      build/slides.pdf from docs/slides.md"
	@echo "make tour        docs/tour.ipynb, run over a demo of its own"
	@echo "make lock        resolve the dependencies again"

demo: $(READY) java
	@$(BIN)/fruits demo

test: $(TESTS_READY) java chromium
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadgroup -m "not deployment and not processes"

# Three processes share two cores, as each waits now and then; threads for matrices would wait for each other.
test test-processes test-deployment test-long: export OPENBLAS_NUM_THREADS = 1

# Whole streams as processes of their own, and work that is killed or cut off at every step.
test-processes: $(TESTS_READY) java
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m processes

# Installs nodes and runs jobs for real, which takes as long as half of the other tests.
test-deployment: $(TESTS_READY) $(LOCALSTACK_READY) java
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m deployment

# Both in one run: while a test waits for processes of its own, another one works.
test-long: $(TESTS_READY) $(LOCALSTACK_READY) java
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadgroup -m "processes or deployment"

lint: $(TESTS_READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@mkdir -p build && $(BIN)/python -m bootstrap.aws.template > build/template.json
	@$(BIN)/cfn-lint --regions eu-central-1 eu-west-1 eu-west-3 eu-north-1 eu-south-1 eu-south-2 -- build/template.json
	@$(BIN)/python -m pytest -q tests/test_imports.py tests/test_rooms.py

benchmark: $(BENCHMARKS_READY) java
	@$(BENCHMARKS)/bin/python -m benchmarks.stream
	@$(BENCHMARKS)/bin/python -m benchmarks.refit

# The pictures are of a report, so a demo is made for it first.
slides: $(TESTS_READY) java chromium
	@$(BIN)/fruits demo --home build/slides
	@$(BIN)/python -m ops.demo.slides build/slides build/slides.pdf

# The tour puts a label right and fits a version, so it has a home of its own, a new one each time.
tour: $(TESTS_READY) java
	@rm -rf build/tour
	@$(BIN)/fruits demo --home build/tour --photos 240
	@$(BIN)/python -m ops.demo.tour build/tour

PIP = -m pip install --disable-pip-version-check --require-hashes --no-deps --no-build-isolation --no-compile
# pip tells each step or nothing; this tells how far it is, on one line where the terminal can.
COUNT = awk -v all="$$(grep -c == $<)" -v live="$$([ -t 2 ] && echo 1)" ' \
    function say(text) { if (live) printf "\r\033[K  %s", text; else print "  " text; fflush() } \
    /^(Collecting|Requirement already|Processing) / { n++; name = $$1 == "Requirement" ? $$4 : $$2; sub(".*/", "", name) } \
    /^(Collecting|Processing) / && (live || n % 10 == 0) { say(n " of about " all " packages: " name) } \
    /^ *Downloading .*\([0-9]{2,}\.[0-9] MB\)$$/ { say(n " of about " all " packages: " name " " $$(NF-1) " " $$NF) } \
    /^Installing collected/ { say("All are here; pip unpacks them.") } \
    END { if (live) printf "\r\033[K" }'

# The build tools are locked too, so nothing is installed that was not checked against its hash. An environment that
# other locks made is taken away first: what is installed is what the locks say.
$(READY): requirements.lock requirements-build.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or run make PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is not Python 3.11; run make PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "Python's venv module is needed; Debian and Ubuntu: apt install python3.11-venv."; exit 1; }
	@echo "Installing into $(VENV); the first time takes some minutes."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python $(PIP) -qq -r requirements-build.lock
	@$(BIN)/python $(PIP) -r $< | $(COUNT)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

$(TESTS_READY): requirements-tests.lock $(READY)
	@echo "Installing what the tests need besides."
	@$(BIN)/python $(PIP) -r $< | $(COUNT)
	@touch $(TESTS_READY)

# The same versions and the rivals' engines, apart from what the service itself needs.
$(BENCHMARKS_READY): requirements-benchmarks.lock requirements-build.lock pyproject.toml | $(READY)
	@echo "Installing into $(BENCHMARKS); the first time takes some minutes."
	@$(PYTHON) -m venv --clear $(BENCHMARKS)
	@$(BENCHMARKS)/bin/python $(PIP) -qq -r requirements-build.lock
	@$(BENCHMARKS)/bin/python $(PIP) -r $< | $(COUNT)
	@$(BENCHMARKS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(BENCHMARKS_READY)

# A stand-in for AWS that needs other versions of what the service itself needs.
$(LOCALSTACK_READY): requirements-localstack.lock requirements-build.lock
	@echo "Installing into $(LOCALSTACK); the first time takes a minute."
	@$(PYTHON) -m venv --clear $(LOCALSTACK)
	@$(LOCALSTACK)/bin/python $(PIP) -qq -r requirements-build.lock
	@$(LOCALSTACK)/bin/python $(PIP) -r $< | $(COUNT)
	@touch $(LOCALSTACK_READY)

# Without a Java, apt installs one when it may; otherwise the finder says what to do. Then the classes that Spark loads
# at each start are parsed once for all.
java: $(READY)
	@$(BIN)/python -m bootstrap.programs java >/dev/null 2>&1 || bootstrap/install_with_apt.sh "Java 17" openjdk-17-jre-headless || true
	@$(BIN)/python -m bootstrap.programs java >/dev/null
	@JAVA_HOME="$$($(BIN)/python -m bootstrap.programs java)" && export JAVA_HOME && $(BIN)/python -m streaming.class_archive >/dev/null || echo "Spark will start more slowly than it could; everything works."

# Without a Chromium, apt installs one when it may; otherwise the tests that need one are skipped and say so.
chromium: $(READY)
	@$(BIN)/python -m bootstrap.programs chromium >/dev/null 2>&1 || bootstrap/install_with_apt.sh Chromium chromium fonts-dejavu-core || true
	@$(BIN)/python -m bootstrap.programs chromium >/dev/null || true

# TensorFlow names the compiler library of its build among its needs; nothing of it is loaded.
COMPILE = $(VENV)/uv/bin/uv pip compile --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-package libclang --no-header --quiet
lock: $(READY)
	@$(BIN)/python -m venv $(VENV)/uv && $(VENV)/uv/bin/pip install --quiet uv
	@$(COMPILE) pyproject.toml --extra laptop --extra dev --universal --output-file requirements-tests.lock
	@$(COMPILE) pyproject.toml --extra laptop --constraint requirements-tests.lock --universal --output-file requirements.lock
	@$(COMPILE) pyproject.toml --extra laptop --extra dev --extra benchmarks --constraint requirements-tests.lock --universal \
	    --output-file requirements-benchmarks.lock
	@$(COMPILE) pyproject.toml --constraint requirements.lock --python-platform linux --output-file requirements-cluster.lock
	@$(COMPILE) --group localstack --universal --output-file requirements-localstack.lock
	@printf 'pip\nsetuptools\nwheel\n' | $(COMPILE) - --universal --no-annotate --output-file requirements-build.lock

clean:
	@rm -rf $(VENV) $(BENCHMARKS) $(LOCALSTACK) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
