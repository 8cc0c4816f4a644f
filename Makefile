# make serve   set up, build the embedded guard, serve it
# make test    set up, lint, types, tests
# make loadtest  a minute of load on the embedded guard, and its summary
# make check   lint and types alone
# make docs-site  the documents as a site in build/site, with search; needs no network to read
# make bounds  test the oldest and the newest allowed version of every dependency (downloads gigabytes)
# make mutation  change one operator, number or comparison at a time and print what no test noticed (takes hours)
# make backbones  every family of timm's models through train, export and serve (takes hours)
# make images  build the gateway image and ask it a question (as root, with buildah)
PYTHON ?= python3.11
PORT ?= 8000
ADMIN_PORT ?= 8001
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXAMPLE := .oodguard-cache/example
BUNDLE := $(EXAMPLE)/bundles/digits

.PHONY: setup check test serve bundle loadtest docs docs-site bounds backbones mutation images clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "oodguard needs Python 3.11; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

test: check
	$(BIN)/pytest -n 2

bundle: $(BUNDLE)/manifest.json

$(BUNDLE)/manifest.json: $(STAMP)
	$(BIN)/oodguard train --data digits --image-size 96 --views 1 --fine-tune-epochs 3 --epochs 15 --out $(EXAMPLE)/runs/digits
	$(BIN)/oodguard export $(EXAMPLE)/runs/digits --out $(BUNDLE)
	$(BIN)/oodguard samples --out $(EXAMPLE)/samples

serve: $(BUNDLE)/manifest.json
	$(BIN)/oodguard serve $(BUNDLE) --port $(PORT) --admin-port $(ADMIN_PORT) \
	  --samples $(EXAMPLE)/samples/in_distribution.png --samples $(EXAMPLE)/samples/out_of_distribution.jpg

# More: make loadtest LOAD="--shape spike --people 60 --seconds 60 --max-p99-ms 500"
LOAD ?= --shape step --people 20 --seconds 60 --max-shed-share 0
loadtest: $(BUNDLE)/manifest.json
	$(BIN)/python load_tests/loadtest.py $(BUNDLE) $(LOAD)

# Tables and the chart's schema, as far as they are made from the code.
docs: setup
	$(BIN)/python -m oodguard.server.tables docs/*.md
	$(BIN)/python helm/document.py

docs-site: setup
	$(BIN)/python scripts/docs_site.py build/site

bounds: setup
	$(BIN)/python scripts/check_dependency_bounds.py

# Every family of timm's models: trains, exports and serves its smallest member, and writes docs/BACKBONES.md.
backbones: setup
	$(BIN)/python scripts/backbones.py

mutation: setup
	scripts/mutation.sh

# Builds the gateway image, runs it read-only and asks it a question. Needs root and buildah; STAND_IN=yes where no image
# registry is reachable.
images: $(BUNDLE)/manifest.json
	images/build_and_ask.sh $(BUNDLE)

clean:
	rm -rf $(VENV) .oodguard-cache build dist *.egg-info
