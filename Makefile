# The system's own Python: the tests also run packhorse as other users, who cannot read one in a home.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
BUILD_PACKAGES := python3-venv mmdebstrap uidmap passt
TEST_PACKAGES := docker.io podman openssh-server openssh-client runc docker-registry skopeo umoci busybox-static apparmor qemu-user-static chromium $(if $(filter x86_64,$(shell uname -m)),user-mode-linux)
BENCH_PACKAGES := docker.io buildah docker-registry skopeo umoci
PYTEST = $(BIN)/pytest -n 2 --dist worksteal
# pytest keeps the tests as it has rewritten them: without that, each worker reads all of them anew.
unexport PYTHONDONTWRITEBYTECODE
apt = dpkg --status $(1) >/dev/null 2>&1 || { $(SUDO) apt-get -q update && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends $(1); }

.PHONY: setup demo quick test torture check format lock digests bench clean

setup: $(BIN)/packhorse  ## leaves .venv/bin/packhorse

demo: setup  ## builds a Node.js app, runs its image, prints its answer
	@./samples/demo.sh $(BIN)/packhorse

quick: check  ## everything that needs no other process, root, npm or registry: within a minute
	$(PYTEST) --lane quick tests/architecture tests/fuzz tests/golden tests/spec tests/unit

test: check  ## quick, and one test of each journey and each defence: within ten minutes
	@$(call apt,$(TEST_PACKAGES))
	$(PYTEST) --lane test $(if $(TORTURE_SECONDS),--torture-seconds $(TORTURE_SECONDS)) $(if $(TORTURE_SEED),--torture-seed $(TORTURE_SEED))

torture: setup  ## every attack, engine and version; kills, faults and fuzzing: for hours
	@$(call apt,$(TEST_PACKAGES))
	$(PYTEST) --lane torture --torture-record
	PACKHORSE_TESTS_EFFORT=100 $(PYTEST) $$(grep -rl --include='test_*.py' 'fakes.effort' tests)
	PYTHONPATH=src:tests $(BIN)/python tests/fuzz/campaign.py 600 build/fuzz
	PYTHONPATH=src:tests $(BIN)/python -m torture all
	PYTHONPATH=src:tests $(BIN)/python -m torture.signals $$(mktemp --directory --tmpdir=/var/tmp) 150

check: setup  ## linters, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock: setup  ## resolves requirements.txt anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --extra dev --extra build --output-file requirements.txt pyproject.toml

digests:  ## takes up new versions of Node.js in the digests that its buildpack knows
	$(PYTHON) buildpacks/renew_node_digests.py

bench: setup  ## measures beside other programs, and writes docs/benchmarks
	@$(call apt,$(BENCH_PACKAGES))
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist src/packhorse/_bundled launcher/build

$(BIN)/packhorse: pyproject.toml requirements.txt hatch_build.py $(shell find buildpacks launcher/src launcher/terminal launcher/init launcher/leash launcher/network launcher/node-options src/packhorse/sdk src/packhorse/base -type f -not -name '*.pyc' 2>/dev/null)
	@$(call apt,$(BUILD_PACKAGES))
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q src/packhorse
	@touch $@
