# Gatehouse. `make help` lists the targets.
SHELL   := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GOFLAGS_BUILD := -trimpath -tags grpcnotrace -ldflags '-s -w -X main.version=$(VERSION)'
FUZZTIME ?= 20s
# The race detector needs a C compiler. Without one tests run all the same.
CC_FOUND := $(shell command -v $(shell go env CC) 2>/dev/null)
RACE     := $(if $(CC_FOUND),-race,)
LINT     := bin/golangci-lint
# Modules of their own, so that what they need stays out of the binary.
MODULES  := cmd/image cmd/rotator test/templates/mutation

.PHONY: help build demo test e2e image lint fmt fuzz bench soak tidy clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/gatehouse: static, version stamped
	CGO_ENABLED=0 go build $(GOFLAGS_BUILD) -o bin/gatehouse ./cmd/gatehouse

demo: build ## a registry, signed and unsigned images, and their verdicts in one process
	bin/gatehouse demo $(DEMOFLAGS)

test: ## all tests, with the race detector where there is a C compiler
	@$(if $(RACE),,echo "no C compiler: tests run without the race detector")
	go test $(RACE) -timeout 20m ./...
	@set -e; for module in $(MODULES); do echo "module $$module"; go -C $$module test $(RACE) -timeout 10m ./...; done

e2e: ## the whole gate: kubectl, a real API server and Gatekeeper, the binary, real registries
	GATEHOUSE_E2E=1 go -C cmd/rotator test $(RACE) -timeout 15m ./...
	GATEHOUSE_E2E=1 go test $(RACE) -count 1 -timeout 40m -v ./test/e2e/... $(E2EFLAGS)

image: ## the release image as an OCI layout in dist/image, with SBOM and provenance
	@go -C cmd/image run . -out ../../dist/image -version $(VERSION) \
	  -binary gatehouse=.:./cmd/gatehouse -binary gatehouse-rotator=cmd/rotator:. $(IMAGEFLAGS)

$(LINT): test/lint/go.mod
	cd test/lint && go build -o ../../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

lint: $(LINT) ## golangci-lint: style, dependency direction, gofumpt
	$(LINT) run ./...
	@set -e; for module in $(MODULES); do (cd $$module && $(CURDIR)/$(LINT) run --config $(CURDIR)/.golangci.yml ./...); done

fmt: $(LINT) ## format as lint wants it
	$(LINT) fmt

fuzz: ## every fuzz target for FUZZTIME (20s)
	@set -e; go list ./... | while read -r pkg; do \
	  for f in $$(go test -list '^Fuzz' "$$pkg" | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x "$$pkg"; done; done

bench: ## benchmarks beside their floors, see docs/performance.md
	go test -run '^$$' -bench . -benchmem ./executor/... ./httpserver/... ./referrerstore/governor ./referrerstore/cache ./referrerstore/journal
	GATEHOUSE_BENCH_OUT=$(CURDIR)/bench.json go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./test/bench
	go run ./test/bench/plot -in bench.json -out docs/performance

soak: ## what the tests do for a moment, for long: 1,000 kills, minutes of pruning
	GATEHOUSE_TEST_KILLS=1000 GATEHOUSE_TEST_PRUNING=3m go test -timeout 60m -count 1 -v -run 'TestKill|TestPruneAndPull' ./test/pull

tidy: ## go.mod and go.sum as the imports want them
	go mod tidy
	@set -e; for module in $(MODULES); do go -C $$module mod tidy; done

clean: ## remove what was built
	rm -rf bin dist
