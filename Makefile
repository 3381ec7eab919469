# Sentry: build, test, measure. `make` alone tells what there is.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X sentry/internal/cli.release=$(VERSION)
GO      ?= go
TOOL     = $(GO) tool -modfile=tools/go.mod

# The race detector needs a C compiler; without one the tests run without it, and say so.
CC_FOUND := $(shell command -v $$($(GO) env CC) 2>/dev/null)
ifneq ($(CC_FOUND),)
RACE = -race
endif

PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.PHONY: help
help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

.PHONY: build
build: ## build/sentry, one static binary with its version inside
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o build/sentry .

.PHONY: test
test: ## unit tests, integration with real git over HTTP, command line scripts, a short crash test
	$(if $(RACE),,@echo "no C compiler: testing without the race detector")
	$(TOOL) gotestsum --format pkgname --format-hide-empty-pkg -- $(RACE) -timeout 20m ./...

.PHONY: gitea
gitea: ## a real Gitea for the tests, built once (five minutes)
	./components/gitea/build

.PHONY: test-forges
test-forges: gitea ## everything about forges: emulators, a real Gitea, faults, webhooks, end to end; nothing is skipped
	SENTRY_NEED_GITEA=1 SENTRY_FORGE_SEEDS=2 $(TOOL) gotestsum --format pkgname -- $(RACE) -count 1 -timeout 20m ./internal/forge/... ./internal/server ./internal/endtoend
	@echo "and twenty histories of each fault, without the race detector, which takes ten times as long"
	SENTRY_FORGE_SEEDS=20 $(TOOL) gotestsum --format pkgname -- -run '^(TestFaults|TestGiteaConverges)$$' -count 1 -timeout 20m ./internal/forge

.PHONY: cluster
cluster: ## a real Kubernetes with Tekton for the tests, built once (ten minutes), then started (Linux, root)
	./components/cluster/up

.PHONY: cluster-down
cluster-down: ## ends that Kubernetes, and removes every trace of it
	./components/cluster/down

KUBE_PACKAGES ?= ./internal/kube/... ./internal/endtoend/pipelines ./helm
KUBE_TEST = $(TOOL) gotestsum --format pkgname -- $(RACE) -p 1 -count 1 -timeout 20m
.PHONY: test-kube
test-kube: ## everything about Kubernetes and Tekton, with a cluster that was started for it, or is up, or KUBECONFIG names
	SENTRY_NEED_KUBE=1 ./components/cluster/with sh -c '$(KUBE_TEST) $(KUBE_PACKAGES) && $(KUBE_TEST) -run "OnACluster|InAPod" ./internal/deploy'
	SENTRY_PAPER=1 $(MAKE) --no-print-directory crash-kube

.PHONY: crash-kube
crash-kube: ## kill -9 at 200 random moments between the creation of pipeline runs and the verdict, in such a cluster
	SENTRY_NEED_KUBE=1 SENTRY_CRASH_KILLS=$(or $(KILLS),200) ./components/cluster/with $(GO) test -timeout 3h -parallel 8 -count 1 -run '^TestKilledAtRandom$$' -v ./internal/endtoend/pipelines

.PHONY: helm
helm: ## a helm for the tests, built once (two minutes)
	./components/helm/build

.PHONY: helm-lint
helm-lint: helm ## the chart and the manifests: helm's lint, every value, what is refused
	$(GO) test -count 1 -skip '^TestCluster' ./helm

.PHONY: manifests
manifests: helm ## k8s/ and the schema of the chart's values anew, from the chart and the program
	$(GO) test -count 1 -run '^(TestManifests|TestSchemaOfTheConfiguration)$$' ./helm -update

# localhost/ is no registry: nobody else's image is meant.
IMAGE ?= localhost/sentry:$(shell sed -n 's/^appVersion: "\(.*\)"/\1/p' helm/sentry/Chart.yaml)

.PHONY: docker
docker: ## the image, with Docker or buildah: IMAGE=localhost/sentry:0.1.0
	VERSION=$(VERSION) ./tools/image-build $(IMAGE)

.PHONY: image-test
image-test: ## the image, built twice, and what is promised of it (without a Docker engine: Linux, root, buildah, debootstrap)
	./tools/image-test $(IMAGE)

.PHONY: test-long
test-long: ## the scheduler's model over 100,000 sequences (about half an hour), and with pipeline runs over 20,000
	SENTRY_MODEL_SEQUENCES=100000 $(GO) test -timeout 3h -count 1 -run '^TestModel$$' -v ./internal/deploy
	SENTRY_MODEL_SEQUENCES=20000 $(GO) test -timeout 3h -count 1 -run '^TestModelOfPipelineRuns$$' -v ./internal/deploy

.PHONY: crash
crash: ## kill -9 at 2,000 random moments, judged by what the commands wrote
	SENTRY_CRASH_KILLS=2000 $(GO) test -timeout 6h -count 1 -run TestCrash -v ./internal/crash

.PHONY: fuzz
fuzz: ## each fuzz target for 30 seconds (FUZZTIME=…)
	./tools/fuzz $(or $(FUZZTIME),30s)

.PHONY: bench
bench: ## what Sentry costs, side by side with its peers, as ratios of one run
	cd bench && $(GO) test -timeout 2h -count 1 -run TestRatios -v ./...

.PHONY: lint
lint: ## gofumpt, vet, staticcheck; the layers are checked by the tests
	@odd=$$($(TOOL) gofumpt -l $$(git ls-files '*.go')); if [ -n "$$odd" ]; then echo "gofumpt would change:"; echo "$$odd"; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	cd bench && $(GO) vet ./...
	cd components/cluster && GOOS=linux $(GO) vet ./...

.PHONY: fmt
fmt: ## format the code
	$(TOOL) gofumpt -w $$(git ls-files '*.go')

.PHONY: cross-compile
cross-compile: ## build/sentry-OS-ARCH for Linux, macOS and Windows
	@for p in $(PLATFORMS); do \
		os=$${p%/*}; arch=$${p#*/}; ext=; [ $$os = windows ] && ext=.exe; \
		echo "build/sentry-$$os-$$arch$$ext"; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o build/sentry-$$os-$$arch$$ext . || exit 1; \
	done

.PHONY: clean
clean: ## remove what was built
	rm -rf build
