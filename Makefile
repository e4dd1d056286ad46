# taskwire. `make` lists the targets; the two to know are `go run ./dev` and `make test`.
SHELL      := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PACKAGES := ./...
SERVICES := ./taskapi ./bridge ./notifier ./auditor

# Tools are built from their modules at fixed versions and kept in .cache/bin.
TOOLS         := $(CURDIR)/.cache/bin
ACTIONLINT    := $(TOOLS)/actionlint-v1.7.12
GOLANGCI_LINT := $(TOOLS)/golangci-lint-v2.15.0
GORELEASER    := $(TOOLS)/goreleaser-v2.15.1
GOTESTSUM     := $(TOOLS)/gotestsum-v1.13.0
GOVULNCHECK   := $(TOOLS)/govulncheck-v1.9.0
KO            := $(TOOLS)/ko-v0.19.1
PROMETHEUS    := $(TOOLS)/prometheus-v0.316.0
PROMTOOL      := $(TOOLS)/promtool-v0.316.0
STATICCHECK   := $(TOOLS)/staticcheck-v0.8.2

.PHONY: help run test test-fast lint build docs chaos scale sweep mutants attacks alerts pictures fuzz vuln bench manifests kind-up kind-down acceptance-cluster acceptance-keda acceptance-cnpg snapshot release images manifests-release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## the whole system in this terminal (the same as go run ./dev)
	go run ./dev

test: $(GOTESTSUM) $(PROMTOOL) ## every test with the race detector, on the embedded broker, PostgreSQL and a real Apache Kafka (needs Java)
	@GOTESTSUM=$(GOTESTSUM) bash .ci/test

test-fast: ## every test on the embedded broker and PostgreSQL, without the race detector
	go test $(PACKAGES)

lint: $(ACTIONLINT) $(GOLANGCI_LINT) $(GORELEASER) $(STATICCHECK) ## gofmt, vet (also for macOS), staticcheck, golangci-lint, go.mod, workflows, release configuration
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet $(PACKAGES)
	go vet -tags cluster ./acceptance
	GOOS=linux go vet -tags attack,alerts ./attack ./alerts
	GOOS=darwin GOARCH=arm64 go vet $(PACKAGES)
	go vet -tags failpoint $(PACKAGES)
	go mod verify
	go mod tidy -diff
	$(STATICCHECK) $(PACKAGES)
	$(GOLANGCI_LINT) run $(PACKAGES)
	$(ACTIONLINT) -shellcheck= -pyflakes=
	$(GORELEASER) check

.PHONY: schemas acceptance-avro
schemas: ## an incompatible change of a schema, or of a published version, is refused; so is a JSON Schema that says something else
	go test -count=1 ./schemas

build: ## the four programs into bin/, with version and revision
	go build -trimpath -buildvcs=auto -o bin/ $(SERVICES)

docs: ## the documentation site, from docs/ and mkdocs.yml into .cache/site; fails on a link that leads nowhere (needs python3-venv)
	@.ci/docs/build

chaos: ## break real processes at random under load and check what is left (DURATION=2m SEED=... BROKERS=3 ENCODING=avro)
	go run ./chaos run -duration $(or $(DURATION),2m) $(if $(SEED),-seed $(SEED)) $(if $(BROKERS),-brokers $(BROKERS)) $(if $(ENCODING),-encoding $(ENCODING))

sweep: ## kill the right process at each step between two effects, TIMES (3) times each
	go run ./chaos sweep -times $(or $(TIMES),3) $(if $(SEED),-seed $(SEED))

mutants: ## each known mistake, built into the product, must turn a short run red
	go run ./chaos mutants

attacks: ## clients that want to use up memory and descriptors, against the real programs at their default limits
	ulimit -n 20000; go test -tags attack -count=1 -timeout 20m -v ./attack

alerts: $(PROMETHEUS) ## each alert firing in a running system that a real Prometheus scrapes, then resolved (6 minutes, as root)
	PROMETHEUS=$(PROMETHEUS) go test -tags alerts -count=1 -timeout 30m -v ./alerts

pictures: ## take the pictures of the README again, and one of every page of the console, into dist/pictures
	mkdir -p dist/pictures docs/images
	go test ./acceptance/browser -run Stranger -count=1 -pictures $(CURDIR)/dist/pictures
	cp dist/pictures/13-flow-light.png docs/images/console-flow.png
	cp dist/pictures/03-entry-verified-dark.png docs/images/console-audit.png

fuzz: ## each fuzz target for FUZZTIME (30s); what it finds is kept
	@bash .ci/fuzz

vuln: $(GOVULNCHECK) ## known vulnerabilities in code that is called (asks vuln.go.dev)
	$(GOVULNCHECK) $(PACKAGES)

scale: ## 10 minutes (DURATION) of faults in a system with several of each service, then what a change costs there, into docs/scale.md (needs Java)
	go run ./chaos run -scale -kafka real -duration $(or $(DURATION),10m) -drain 4m $(if $(SEED),-seed $(SEED))
	KAFKA_REAL=1 go run ./bench -write scale

bench: ## measure everything into docs/benchmarks.md (SECTIONS="bridge path" for some, BASE=COMMIT beside that commit's services)
	go run ./bench -write $(if $(BASE),-base $(BASE)) $(SECTIONS)

manifests: ## the manifests' tests, then each overlay as a strict dry run on the current cluster
	@bash .ci/manifests

kind-up: ## a local Kubernetes cluster called taskwire (needs Docker); then: skaffold dev
	go tool kind create cluster --config manifests/kind/cluster.yaml

kind-down: ## delete it, with its volumes
	go tool kind delete cluster --name taskwire

acceptance-cluster: ## the acceptance scripts, rollouts and kills against the deployed system (skaffold run), which they empty
	KAFKA_REAL=1 go test -tags cluster -count=1 -timeout 60m -run '$(or $(RUN),^TestCluster)' -v ./acceptance

acceptance-keda: ## KEDA's own operator, built from its module (11 minutes, once), scales the deployed bridge (skaffold run), which it empties
	@bash .ci/keda

acceptance-cnpg: ## CloudNativePG's own operator, built from its module (once), fails the PostgreSQL of the deployed system (skaffold run) over under load
	@bash .ci/cnpg

acceptance-avro: ## the acceptance scripts with events in Avro, on a real Apache Kafka and a real Schema Registry (needs Java and Python)
	bash .ci/acceptance-avro

snapshot: $(GORELEASER) ## the archives of a release into dist/, published nowhere
	$(GORELEASER) release --snapshot --clean

release: $(GORELEASER) ## publish the archives of the tag that is checked out (release.yml does)
	$(GORELEASER) release --clean

images: $(KO) ## push the four images to KO_DOCKER_REPO under TAG, with SBOMs; dist/images lists them
	mkdir -p dist
	$(KO) build --base-import-paths --platform=linux/amd64,linux/arm64 --tags=$(or $(TAG),latest) --image-refs=dist/images $(SERVICES)

manifests-release: ## dist/taskwire_VERSION_manifests.tar.gz from dist/images: `kubectl apply -k` of the release TAG
	@TAG="$(TAG)" bash .ci/manifests-release

clean: ## forget built programs and test results (never ./data)
	rm -rf bin dist
	go clean -testcache

$(ACTIONLINT):    module := github.com/rhysd/actionlint/cmd/actionlint
$(GOLANGCI_LINT): module := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(GORELEASER):    module := github.com/goreleaser/goreleaser/v2
$(GOTESTSUM):     module := gotest.tools/gotestsum
$(GOVULNCHECK):   module := golang.org/x/vuln/cmd/govulncheck
$(KO):            module := github.com/google/ko
$(PROMETHEUS):    module := github.com/prometheus/prometheus/cmd/prometheus
$(PROMTOOL):      module := github.com/prometheus/prometheus/cmd/promtool
# Without the clients of every cloud they take less than half the time to build.
$(PROMETHEUS) $(PROMTOOL): flags  := -tags=remove_all_sd
$(STATICCHECK):   module := honnef.co/go/tools/cmd/staticcheck

$(ACTIONLINT) $(GOLANGCI_LINT) $(GORELEASER) $(GOTESTSUM) $(GOVULNCHECK) $(KO) $(PROMETHEUS) $(PROMTOOL) $(STATICCHECK):
	@tool=$(@F); name=$${tool%-v*}; echo "building $$tool (once)"; mkdir -p $(TOOLS); \
	GOBIN=$(TOOLS) go install $(flags) $(module)@v$${tool##*-v}; mv $(TOOLS)/$$name $@
