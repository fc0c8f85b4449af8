# Everything sets itself up: Python 3.11 (or later) and make are enough.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
# what is compiled is kept: tests start many processes
unexport PYTHONDONTWRITEBYTECODE

# the suites of the languages that are here
PARTS = test-python $(if $(wildcard tflite/android/pom.xml),test-android) \
	$(if $(wildcard tflite/web/package.json),test-web)

# a part whose program is absent is left out with one line; under CI that is a failure
define needs
command -v $(1) > /dev/null || { echo "$@ left out: $(1) is not installed. Install it: $(2)"; \
	test -z "$$CI"; exit; };
endef

.PHONY: help demo test test-python test-android test-web test-slow test-slow-android \
	test-slow-web test-all coverage lint docs apk aar web bench-web \
	bench bench-calibration bench-training bench-throughput bench-inference bench-workers bench-gate-time \
	bench-cascades bench-moving-digits bench-streams bench-device bench-fuzz bench-gates \
	bench-stopping bench-stopping-ways bench-compression bench-search bench-score bench-defects \
	bench-mistakes bench-jvm bench-chaos bench-shipped \
	models-table \
	vectors notebooks readme clean

help:
	@echo "make demo   train, calibrate, export and run on the device, in about a minute"
	@echo "make test   lint and test everything that is quick: about five minutes on two cores"
	@echo "make test-slow   the tests that are slow and rare; make test-all: both"
	@echo "make coverage   both, and which lines of the packages they run"
	@echo "make web    the exported network in a page, on localhost"
	@echo "make apk    build the sample app for Android, signed: tflite/android/sample/target/sample.apk"
	@echo "make docs   build the site from guides, tutorials and docstrings, in site/"
	@echo "make bench  measure what benchmarks/results says (needs CIFAR-10 as images)"
	@echo "make clean  remove the virtual environment and what was generated"

demo: .venv/demo
	$(BIN)/python -m keras_adaptive demo --out demo_run

test: $(PARTS)

test-python: .venv/test lint
	$(BIN)/python -m pytest -n logical --dist worksteal -m "not slow" --durations=10

# the library of LiteRT that runs the files is in the environment of the Python tests
test-android: .venv/test
	@$(call needs,java,apt-get install openjdk-17-jdk-headless) \
	$(call needs,mvn,apt-get install maven) \
	LITERT_LIBRARY="$$($(BIN)/python tflite/android/litert_library.py)" \
	mvn --quiet --file tflite/android test

test-web:
	@$(call needs,npm,apt-get install nodejs npm) cd tflite/web && npm ci && npm test

# the demo page on localhost, with the network of `make demo` too, if it has run
web: .venv/test
	@$(call needs,npm,apt-get install nodejs npm) (cd tflite/web && npm ci && npm run build) && \
	$(BIN)/python tflite/web/demo/prepare.py && node tflite/web/demo/serve.mjs

test-slow-web:
	@$(call needs,npm,apt-get install nodejs npm) \
	cd tflite/web && npm ci && npm run test:slow

# the app with a model in it: make apk MODEL=demo_run/model.tflite; with BASELINE=cut.tflite, too,
# "Measure" times another file in turn with it
MODEL ?= tflite/android/target/shipped/dynamic.tflite

tflite/android/target/shipped/dynamic.tflite: | .venv/test
	$(BIN)/python tflite/android/vectors.py tflite/android/target/shipped

apk: $(MODEL)
	@$(call needs,mvn,apt-get install openjdk-17-jdk-headless maven) \
	$(call needs,aapt2,apt-get install aapt) \
	$(call needs,zipalign,apt-get install zipalign zip) \
	$(call needs,apksigner,apt-get install apksigner) \
	mvn --quiet --file tflite/android --activate-profiles apk --projects sample --also-make \
		test-compile && tflite/android/apk.sh $(MODEL) $(BASELINE)

# the Kotlin library as a Maven repository in tflite/android/target/repository, for apps and servers
aar: .venv/test
	@$(call needs,mvn,apt-get install openjdk-17-jdk-headless maven) \
	$(call needs,zip,apt-get install zip) \
	mvn --quiet --file tflite/android --projects android,desktop --also-make \
		--activate-profiles published test-compile && \
	tflite/android/publish/publish.sh tflite/android/target/repository

# on a JVM: the shipped network on real images, and the app of `make apk`, which is looked at
test-slow-android: .venv/test apk
	@$(call needs,mvn,apt-get install openjdk-17-jdk-headless maven) \
	$(call needs,aapt2,apt-get install aapt) \
	LITERT_LIBRARY="$$($(BIN)/python tflite/android/litert_library.py)" \
	mvn --quiet --file tflite/android --activate-profiles slow,screens \
		--projects desktop,screens --also-make -Dtest='Shipped*,Screens*' \
		-Dsurefire.failIfNoSpecifiedTests=false test

test-slow: .venv/test $(if $(wildcard tflite/android/pom.xml),test-slow-android) \
		$(if $(wildcard tflite/web/package.json),test-slow-web)
	$(BIN)/python -m pytest -n logical --dist worksteal -m slow --durations=10

test-all: test test-slow

# the Python tests of test-all; the settings are in pyproject.toml
coverage: .venv/test
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n logical --dist worksteal
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# the numbers in README.md, from benchmarks/results
readme: .venv/test
	$(BIN)/python -m benchmarks.readme

bench: bench-calibration bench-training bench-throughput bench-inference bench-workers bench-gate-time \
	bench-cascades bench-moving-digits bench-streams bench-device bench-fuzz bench-gates \
	bench-stopping bench-stopping-ways bench-compression bench-search bench-mistakes \
	bench-shipped

# benchmarks need CIFAR-10 as images: CIFAR10_DIR, see CONTRIBUTING.md
bench-calibration: .venv/test
	$(BIN)/python -m benchmarks.calibration

# hours; resumes where it was interrupted
bench-training: .venv/test
	$(BIN)/python -m benchmarks.training

bench-throughput: .venv/test
	$(BIN)/python -m benchmarks.throughput

# the networks of the library as files of four kinds
bench-shipped: .venv/test
	$(BIN)/python -m benchmarks.shipped

# about an hour; resumes where it was interrupted
bench-gates: .venv/test
	$(BIN)/python -m benchmarks.gates
	$(BIN)/python -m benchmarks.gates --time

bench-gate-time: .venv/test
	$(BIN)/python -m benchmarks.gate_time

# beside the predictor of another version, in a folder with its environment in .venv:
# make bench-inference BEFORE=../before
bench-inference: .venv/test
	$(BIN)/python -m benchmarks.inference $(if $(BEFORE),--before $(abspath $(BEFORE)))

# throughput, memory and a server's view for 1, 2 and 4 workers
bench-workers: .venv/test
	$(BIN)/python -m benchmarks.workers

# also CamVid: ../shared/data/camvid_180x240.tar.xz
bench-cascades: .venv/test
	$(BIN)/python -m benchmarks.cascades

bench-moving-digits: .venv/test
	$(BIN)/python -m benchmarks.moving_digits

# videos: answers that are kept while the scene stays the same; trains a small network first
bench-streams: .venv/test
	$(BIN)/python -m benchmarks.streams

bench-device: .venv/test
	$(BIN)/python -m benchmarks.device

# exported files in Chromium and in Node
bench-web: .venv/test
	cd tflite/web && npm ci && npm run build
	$(BIN)/python -m benchmarks.web

# an hour; resumes where it was interrupted
bench-stopping: .venv/test
	$(BIN)/python -m benchmarks.stopping

bench-stopping-ways: .venv/test
	$(BIN)/python -m benchmarks.stopping_ways

# an hour; needs no data; resumes where it was interrupted
bench-fuzz: .venv/test
	$(BIN)/python -m benchmarks.fuzz

# usual mistakes on the command line; needs no data
bench-mistakes: .venv/test
	$(BIN)/python -m benchmarks.mistakes

# the Kotlin runtime on a JVM beside the Python runtime; needs Java and Maven
bench-jvm: .venv/test
	$(BIN)/python -m benchmarks.jvm

# an hour or two, and so not part of `bench`: commands killed at 240 moments; resumes where it was
# interrupted
bench-chaos: .venv/test
	$(BIN)/python -m benchmarks.chaos

# half an hour; resumes where it was interrupted
bench-compression: .venv/test
	$(BIN)/python -m benchmarks.compression

# likewise, the search too
bench-search: .venv/test
	$(BIN)/python -m benchmarks.search

# two hours, and so not part of `bench`: batch scoring of up to a million images; resumes where it
# was interrupted
bench-score: .venv/test
	$(BIN)/python -m benchmarks.score

# hours, and so not part of `bench`: the tests up to their first failure, once for each of 30
# small defects; resumes where it was interrupted
bench-defects: .venv/test
	$(BIN)/python -m benchmarks.defects run --suite all

# which models people bring, and how far each goes; resumes where it was interrupted
models-table: .venv/test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[models]'
	$(BIN)/python -m benchmarks.models_table

# tflite/testdata, which programs in every language are held to
vectors: .venv/test
	$(BIN)/python -m tests.write_vectors
	$(BIN)/python -m tests.file_vectors
	$(BIN)/python -m tests.picture_vectors

# the tutorials as notebooks, beside the programs
notebooks: .venv/test
	$(BIN)/python -m docs.notebooks

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[plot]'
	touch $@

.venv/docs: .venv/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

.venv/test: .venv/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-tflite-runtime build *.egg-info demo_run tutorial_runs site \
		.coverage* tutorials/*.ipynb \
		tflite/web/node_modules tflite/web/dist tflite/web/demo/assets
