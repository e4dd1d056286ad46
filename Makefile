# taskwire. `make` lists the targets; the two to know are `go run ./dev` and `make test`.
SHELL      := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE      := $(CURDIR)/.cache
TOOLS      := $(CACHE)/bin
STATICCHECK_VERSION   := v0.8.2
GOLANGCI_LINT_VERSION := v2.15.0
PACKAGES   := ./...
export GOFLAGS := -buildvcs=false

.PHONY: help run test test-fast lint kind-up kind-down acceptance-cluster manifests bench chaos mutants build fuzz clean sweep attacks

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## the whole system in this terminal (the same as go run ./dev)
	go run ./dev

test: ## everything, with the race detector, on the embedded broker and on a real Apache Kafka
	@bash .ci/test

test-fast: ## the fast subset: embedded broker, nothing to install
	go test $(PACKAGES)

lint: $(TOOLS)/staticcheck-$(STATICCHECK_VERSION) $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION) ## gofmt, vet, staticcheck, golangci-lint, cross-compile for macOS
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet $(PACKAGES)
	go vet -tags cluster ./acceptance
	GOOS=darwin GOARCH=arm64 go vet $(PACKAGES)
	go vet -tags failpoint $(PACKAGES)
	go mod verify
	go mod tidy -diff
	$(TOOLS)/staticcheck-$(STATICCHECK_VERSION) $(PACKAGES)
	$(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION) run $(PACKAGES)

kind-up: ## a local Kubernetes cluster called taskwire (needs Docker); then: skaffold dev
	go tool kind create cluster --config manifests/kind/cluster.yaml

kind-down: ## delete it, with its volumes
	go tool kind delete cluster --name taskwire

acceptance-cluster: ## the acceptance scripts, rollouts and kills against the deployed system (skaffold run), which they empty
	KAFKA_REAL=1 go test -tags cluster -count=1 -timeout 60m -run '^TestCluster' -v ./acceptance

manifests: ## the manifests' tests, then each overlay as a strict dry run on the current cluster
	@bash .ci/manifests

bench: ## the figures of DESIGN.md, as ratios in one run
	go run ./bench

chaos: ## break real processes at random and judge what is left (DURATION=2m SEED=...)
	go run ./chaos run -duration $(or $(DURATION),2m) $(if $(SEED),-seed $(SEED))

sweep: ## kill the right process at each step between two effects, TIMES (3) times each
	go run ./chaos sweep -times $(or $(TIMES),3) $(if $(SEED),-seed $(SEED))

mutants: ## each known mistake, built into the product, must turn a short run red
	go run ./chaos mutants

attacks: ## clients that want to use up memory and descriptors, against the real programs at their default limits
	ulimit -n 20000; go test -tags attack -count=1 -timeout 20m -v ./attack

build: ## the four programs into bin/
	go build -trimpath -o bin/ ./taskapi ./bridge ./notifier ./auditor

fuzz: ## each fuzz target for FUZZTIME (30s)
	@for file in $$(git grep -l 'func Fuzz' -- '*_test.go'); do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
	    echo "== $$target in $$(dirname $$file)"; go test -run='^$$' -fuzz="^$$target$$" -fuzztime=$${FUZZTIME:-30s} ./$$(dirname $$file); done; done

clean: ## forget built programs and test caches (never ./data)
	rm -rf bin
	go clean -testcache

# Tools are built from their modules at fixed versions and kept in .cache.
$(TOOLS)/staticcheck-$(STATICCHECK_VERSION):
	@echo "building staticcheck $(STATICCHECK_VERSION) (once)"; mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)
	mv $(TOOLS)/staticcheck $@

$(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION):
	@echo "building golangci-lint $(GOLANGCI_LINT_VERSION) (once, some minutes)"; mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv $(TOOLS)/golangci-lint $@
