# `make help` lists the targets. Everything needs Go; `make test` installs what else it lacks.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Concurrency is what the race detector is for; the rest runs without it, because it makes the property tests ten times slower.
RACED := ./writer/... ./edge/... ./replication/... ./pkg/token/...
# The end-to-end tests need the machine for themselves: they run after all others.
ALONE := ./deploy/e2e/...
# Programs in JavaScript that judge ours, each beside its lock file.
JUDGES := $(patsubst %/package-lock.json,%/node_modules/.package-lock.json,$(wildcard deploy/e2e/judge/package-lock.json deploy/storesim/judge/package-lock.json pkg/token/judge/package-lock.json))
# The SDK for apps, with its tools.
SDK := pkg/sdk/js
SDK_TOOLS := $(SDK)/node_modules/.package-lock.json
# Stripe's simulator, which tests build at the version that they name.
STRIPE_MOCK := $(shell grep -oh 'github.com/stripe/stripe-mock@v[0-9.]*' deploy/storesim/openapi_test.go)

# What comes from elsewhere is asked for again: a registry that does not answer once says nothing about us.
again = for pause in 3 15 40 0; do ($1) && break; [ $$pause != 0 ] || exit 1; echo "once more in $$pause s"; sleep $$pause; done
install = $(call again,$$root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq -o Acquire::Retries=5 --no-install-recommends $1 >/dev/null)

.PHONY: help
help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

.PHONY: build
build: ## every program into bin/
	go build -o bin/ ./writer/cmd/... ./edge/cmd/... ./deploy/cmd/...

.PHONY: run
run: build ## the whole system on this machine; ARGS="--port 9000" and the like go to latchkey-dev
	@exec bin/latchkey-dev $(ARGS)

.PHONY: test
test: lint unit race e2e ## everything that must hold, in less than 15 minutes on two cores

.PHONY: lint
lint: modules $(SDK_TOOLS) ## format, vet, staticcheck, types of the SDK
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...
	cd $(SDK) && npm run --silent check

# With -race, bbolt's pointers into a file are checked, and one that leads out of it ends the process where it would be a fault that is recovered from: tests damage files.
DAMAGED := -gcflags=go.etcd.io/bbolt/...=-d=checkptr=0

.PHONY: unit race e2e
unit: commands $(JUDGES) $(SDK_TOOLS)
	cd $(SDK) && npm test --silent
	go test -timeout 20m $$(comm -23 <(go list ./... | sort) <(go list $(RACED) $(ALONE) | sort))
race: commands $(JUDGES)
	CGO_ENABLED=1 go test -race $(DAMAGED) -p 3 -timeout 20m $(RACED) # clusters wait for elections half of the time
# Mostly they wait, for elections, restarts and time-outs: four systems side by side keep two cores half busy.
e2e: commands $(JUDGES) $(SDK_TOOLS)
	go test -count=1 -timeout 20m -parallel 4 $(ALONE)

# What a new Debian machine with Go lacks: cgo for the race detector, node and npm for the judges and the SDK, a browser for its sample app, curl for
# the README's commands, a NATS and a mail server of others' making.
.PHONY: commands
commands:
	@missing=; \
	  command -v gcc >/dev/null && test -e /usr/include/stdlib.h || missing="$$missing gcc libc6-dev"; \
	  command -v node >/dev/null || missing="$$missing nodejs"; \
	  command -v npm >/dev/null || missing="$$missing npm"; \
	  command -v curl >/dev/null || missing="$$missing curl"; \
	  command -v chromium >/dev/null || missing="$$missing chromium"; \
	  command -v nats-server >/dev/null || missing="$$missing nats-server"; \
	  command -v aiosmtpd >/dev/null || missing="$$missing python3-aiosmtpd"; \
	  if [ -n "$$missing" ]; then \
	    root=; [ "$$(id -u)" = 0 ] || root=sudo; \
	    echo "installing$$missing"; \
	    $(call install,$$missing); \
	  fi

# All that go would else download in the middle of a test.
.PHONY: modules
modules:
	@$(call again,go list -deps -test ./... tool >/dev/null)
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && cd "$$dir" && export GOBIN="$$dir" GOFLAGS= && $(call again,go install $(STRIPE_MOCK))

%/node_modules/.package-lock.json: %/package-lock.json | commands
	cd $* && $(call again,npm ci --no-audit --no-fund --silent --fetch-retries=5 --fetch-timeout=60000) && touch node_modules/.package-lock.json

.PHONY: bench
bench: build rivals ## the figures, as a table and into deploy/bench/results; ONLY=<name> takes one
	go run ./deploy/bench $(if $(ONLY),--only $(ONLY))

# What the edge is compared with needs Redis.
.PHONY: rivals
rivals:
	@if ! command -v redis-server >/dev/null; then \
	    root=; [ "$$(id -u)" = 0 ] || root=sudo; \
	    echo "installing redis-server"; \
	    $(call install,redis-server); \
	  fi

.PHONY: chaos
chaos: commands ## linearizability, then faults on real processes for FOR (5m), in an order that SEED decides
	go build -tags faults -o bin/faults/ ./writer/cmd/... ./edge/cmd/...
	@$(if $(SEED),E2E_SEED=$(SEED)) go test ./deploy/e2e -run '^TestHistories$$' -count=1
	@go run ./deploy/e2e/chaos/run --for $(or $(FOR),5m) $(if $(SEED),--seed $(SEED)) --programs bin/faults

.PHONY: sim
# Naming one kind of simulation plays that alone.
NAMED_SIM = $(HISTORIES)$(LEDGER)$(YEAR)$(TRACES)$(SEEDS)
sim: $(SDK_TOOLS) ## under virtual time: random histories of customers over all providers (HISTORIES=100000), of credits (LEDGER=1000000), a year of a crowd before a real writer and edge (YEAR=10000), clocks of devices (TRACES=1000000), a cluster under every fault (SEEDS=1000); naming one plays it alone
	@$(if $(or $(HISTORIES),$(if $(NAMED_SIM),,all)),go run ./deploy/truth -histories $(or $(HISTORIES),100000) -seed $(or $(SEED),1))
	@$(if $(or $(LEDGER),$(if $(NAMED_SIM),,all)),go run ./deploy/ledger -operations $(or $(LEDGER),1000000) -seed $(or $(SEED),1))
	@$(if $(or $(YEAR),$(if $(NAMED_SIM),,all)),go run ./deploy/truth -users $(or $(YEAR),10000) -seed $(or $(SEED),1))
	@$(if $(or $(TRACES),$(if $(NAMED_SIM),,all)),cd $(SDK) && npm run --silent sim -- --traces $(or $(TRACES),1000000) --seed $(or $(SEED),1))
	@$(if $(or $(SEEDS),$(if $(NAMED_SIM),,all)),go run ./deploy/sim -seeds $(or $(SEEDS),1000) -seed $(or $(SEED),1))

.PHONY: planted
planted: ## plants each known fault and shows which checker finds it; ONLY=<name> takes one
	@go run ./deploy/planted $(if $(ONLY),--only $(ONLY))

.PHONY: fuzz
fuzz: ## every fuzz test for FOR each (FOR=30s)
	@set -e; for package in $$(go list ./...); do \
	  for name in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(or $(FOR),30s) $$package; \
	  done; \
	done
