# Shortcuts. Everything here is a plain go command too; .ci/run does all of it, and what CONTRIBUTING.md asks for.

GO      ?= go
VERSION ?=
LDFLAGS := -s -w $(if $(VERSION),-X main.version=$(VERSION))

.DEFAULT_GOAL := build

.PHONY: build
build: ## the CoreDNS binary: bin/coredns; VERSION=1.2.3 stamps a release
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/coredns ./cmd/coredns

.PHONY: image
image: ## the image coredns-dnsguard; DOCKER=podman builds it with that
	$(or $(DOCKER),docker) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse --short=12 HEAD) -t coredns-dnsguard$(if $(VERSION),:$(VERSION)) .

.PHONY: test
test: ## all tests but the end-to-end ones
	$(GO) test ./...

.PHONY: race
race: ## the same with the race detector
	CGO_ENABLED=1 $(GO) test -race $$($(GO) list ./... | grep -vE '/test/e2e(/|$$)')

.PHONY: lint
lint: ## golangci-lint v2.15.0, from the PATH
	gofmt -l . && $(GO) vet ./... && golangci-lint run ./...

.PHONY: generate
generate: ## after a change of plugin.cfg or README.md
	$(GO) generate ./...

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZ_TIME
	@for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u); do \
		for target in $$($(GO) test -list '^Fuzz' $$dir | grep '^Fuzz'); do \
			echo "$$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZ_TIME),30s) $$dir || exit 1; \
		done; \
	done

.PHONY: e2e
e2e: ## real sockets and processes, in network namespaces: as root, on Linux
	DNSGUARD_E2E=1 $(GO) test ./test/e2e/... -count=1 -v -timeout 40m

.PHONY: ship
ship: ## build and run the image, and stock CoreDNS with the plugin: as root, on Debian
	test/image/run
	test/stock/run

.PHONY: bench
bench: ## beside stock forward
	$(GO) run ./test/bench

.PHONY: ci
ci: ## everything, as root on Debian
	.ci/run

.PHONY: clean
clean:
	rm -rf bin

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 10
