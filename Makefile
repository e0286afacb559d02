# Everything here sets itself up: `make test` and `make demo` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest/bin
# A test's reference for text towers; without torchvision, which it wants for its image towers and which may not fit CPU torch.
REFERENCE := open_clip_torch==3.3.0

# The Khronos glTF validator, where there is npm to fetch it; without, its tests are skipped and say so.
NPM_READY := $(if $(shell command -v npm),tests/js/node_modules/.package-lock.json)

# The focus widget's tests run in Chromium. Where it is missing and can be installed (Debian, as root) it is; else they are
# skipped and say so.
CHROMIUM_READY := $(if $(shell command -v chromium || command -v chromium-browser || echo $$CHROMIUM),,$(if $(filter 0,$(shell id -u)),$(if $(shell command -v apt-get),chromium)))

.PHONY: test test-oldest lint demo clean chromium

$(VENV)/.ready: requirements.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps $(REFERENCE)
	touch $@

lint: $(VENV)/.ready
	$(BIN)/ruff check .

# With COMFY_DIR set to a ComfyUI tree the nodes and the page run in it, too (COMFY_PYTHON: its interpreter, when not in or beside
# the tree); the last line of the run says whether they did.
test: lint $(NPM_READY) $(CHROMIUM_READY)
	$(BIN)/python -m pytest tests -n 2

# The suite on the oldest versions that requirements.txt admits: every lower bound as a pin. `make test` takes the newest.
test-oldest: .venv-oldest/.ready
	$(OLDEST)/python -m pytest tests -n 2

.venv-oldest/.ready: requirements.txt requirements-dev.txt
	test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST)/pip install --quiet torch==2.13.0
	sed 's/>=/==/' requirements.txt > .venv-oldest/requirements.txt
	$(OLDEST)/pip install --quiet -r .venv-oldest/requirements.txt -r requirements-dev.txt
	$(OLDEST)/pip install --quiet --no-deps $(REFERENCE)
	touch $@

tests/js/node_modules/.package-lock.json: tests/js/package-lock.json
	cd tests/js && npm ci --no-audit --no-fund --silent
	touch $@

chromium:
	apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null || echo "no Chromium: the widget's tests will be skipped" >&2

demo: $(VENV)/.ready
	$(BIN)/python -m gd_core generate "a pink rabbit beside a cyan house" --seed 2 --out out/demo --overwrite

clean:
	rm -rf $(VENV) .venv-oldest out tests/js/node_modules
