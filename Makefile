# kubemux: `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
# The real parts that tests run, and Debian's packages of them: program:package.
PARTS := sshd:openssh-server ssh:openssh-client etcd:etcd-server kubectl:kubernetes-client promtool:prometheus \
         ip:iproute2 dropbear:dropbear-bin htpasswd:apache2-utils curl:curl xz:xz-utils systemd-analyze:systemd \
         nc.openbsd:netcat-openbsd corkscrew:corkscrew connect-proxy:connect-proxy socat:socat ncat:ncat \
         dbclient:dropbear-bin plink:putty-tools
# What the bench measures with; a test runs it, too.
LOADS := sshd:openssh-server ssh:openssh-client iperf3:iperf3 wrk:wrk ab:apache2-utils curl:curl nginx:nginx-light haproxy:haproxy gcc:gcc
# How long `make soak` goes on, and which faults in which order: at random without a seed.
MINUTES ?= 10
SEED ?=

.PHONY: help demo dev test faults soak check bench bench-memory bench-logins bench-parts try-skypilot fuzz parts clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

demo: .venv/installed ## try it: no root, no sshd, no cluster needed
	@$(BIN)/kubemux demo

dev: .venv/tests-installed ## ready for editing: .venv with everything, git hooks
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/pre-commit install; fi
	@echo "ready: make check, make test; CONTRIBUTING.md says where a kube-apiserver for tests comes from"

test: PARTS += $(LOADS)
test: .venv/tests-installed parts .tools/openssh/sshd .tools/kubectl/kubectl ## everything, with real parts; says what it skips
	@$(BIN)/python -m pytest $(ARGS)

faults: PARTS += gcc:gcc
faults: .venv/tests-installed parts .tools/openssh/sshd ## the fault matrix: what breaks, and what clients see of it
	@BOTH_PLANES=1 $(BIN)/python -m pytest -q tests/faults $(ARGS)

soak: PARTS += gcc:gcc
soak: .venv/tests-installed parts ## faults at random; MINUTES=10 SEED=, as another run has printed it; draws soak.svg
	@SOAK_MINUTES=$(MINUTES) SOAK_SEED=$(SEED) SOAK_CHART=$(CURDIR)/soak.svg \
	  $(BIN)/python -m pytest -q -s -n0 -p no:randomly tests/faults/test_soak.py::test_soak $(ARGS) && echo "the chart is soak.svg"

check: .venv/tests-installed ## lint, format, types, imports
	@$(BIN)/python -m pytest -q tests/test_source.py $(ARGS)

bench: PARTS := $(LOADS)
bench: .venv/tests-installed parts ## how fast, next to ssh -L; 31 minutes, or ARGS=--quick
	@$(BIN)/python -m bench $(ARGS)

bench-memory: .venv/tests-installed ## 100 clusters and 1,000 clients next to 100 ssh -L
	@$(BIN)/python -m bench.memory $(ARGS)

bench-logins: .venv/tests-installed ## 1,000 sites that come back at once after a restart; ARGS=200 for fewer
	@$(BIN)/python -m bench.logins $(ARGS)

bench-parts: .venv/tests-installed ## parts of the byte path, next to the figures in bench/parts; ARGS=--save keeps new ones
	@$(BIN)/python -m bench.parts $(ARGS)

try-skypilot: .venv/tests-installed parts .tools/skypilot/bin/sky ## SkyPilot through the proxy entry; installs 520 MB into .tools
	@CI=true $(BIN)/python -m pytest -q -n0 tests/try_skypilot.py $(ARGS)  # what is missing fails: to skip is no try

.tools/skypilot/bin/sky:
	@echo "installing SkyPilot into .tools"
	@$(PYTHON) -m venv .tools/skypilot
	@.tools/skypilot/bin/pip install --quiet --disable-pip-version-check 'skypilot[kubernetes]>=0.14,<0.15'

SECONDS := 60
fuzz: .venv/tests-installed ## look for bytes of clients, gateways, sites that break a law; SECONDS=60 for each target
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3,<4'
	@for target in heads keys tls parsers packets link sites; do $(BIN)/python -m tests.fuzz $$target $(SECONDS); done

clean: ## remove what the other targets made
	rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "kubemux needs Python 3.11 or later, and there is no $(PYTHON) (Debian: apt install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"kubemux needs Python 3.11 or later, this is {sys.version.split()[0]}; name another one: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv

.venv/installed: pyproject.toml | .venv/bin/python
	@echo "installing kubemux into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# `pip install --group` came with pip 25.1; Debian 12 has 23.0.
.venv/tests-installed: .venv/installed
	@echo "installing what the tests need into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

# Debian 13's sshd, unpacked: the machine's own may be too old for what the tests ask of it.
.tools/openssh/sshd: tests/support/newer_openssh
	@echo "unpacking a newer sshd into .tools"
	@tests/support/newer_openssh .tools/openssh && touch $@ || echo "could not unpack a newer sshd: tests that need it are skipped"

# Debian's kubectl is from 2021.
.tools/kubectl/kubectl: tests/support/newer_kubectl | .venv/tests-installed
	@echo "unpacking a current kubectl and helm into .tools"
	@tests/support/newer_kubectl .tools/kubectl && touch $@ || echo "could not unpack kubectl and helm: tests that need them are skipped"

# Names what is missing, and installs it if it may; tests say what they skip for want of the rest.
parts:
	@tests/parts.sh $(PARTS)
