# The image of Sentry: `make docker` builds it, `make image-test` checks it.
#
# Sentry and kubectl are built here from sources that go.sum pins, so each architecture has the same ones. The two images
# below are pinned by tag: a digest that nobody looked up would be worth nothing. For an image that can be built again, give
# the digests of the day and the packages of a day:
#   --build-arg BASE=docker.io/library/debian:trixie-slim@sha256:… --build-arg GO=docker.io/library/golang:1.26-trixie@sha256:…
#   --build-arg DEBIAN=URL --build-arg DEBIAN_SECURITY=URL   Debian's archives as they were on that day; else the base's own
ARG BASE=docker.io/library/debian:trixie-slim
ARG GO=docker.io/library/golang:1.26-trixie

FROM --platform=$BUILDPLATFORM ${GO} AS sentry
ARG GOPROXY
ENV CGO_ENABLED=0 GOFLAGS=-trimpath
WORKDIR /src
COPY go.mod go.sum ./
RUN ["go", "mod", "download"]
COPY main.go ./
COPY internal internal
ARG TARGETOS TARGETARCH
ARG VERSION=unknown
RUN ["bash", "-euc", "GOOS=$TARGETOS GOARCH=$TARGETARCH go build -buildvcs=false -ldflags \"-s -w -X sentry/internal/cli.release=$VERSION\" -o /out/sentry ."]

FROM --platform=$BUILDPLATFORM ${GO} AS kubectl
ARG GOPROXY
ENV CGO_ENABLED=0 GOFLAGS=-trimpath
WORKDIR /src
COPY components/kubernetes/go.mod components/kubernetes/go.sum ./
COPY tools/kubectl ./
ARG TARGETOS TARGETARCH
RUN ["bash", "-euc", "GOOS=$TARGETOS GOARCH=$TARGETARCH ./kubectl /out/kubectl"]

FROM ${BASE}
ARG DEBIAN
ARG DEBIAN_SECURITY
ARG SOURCE_DATE_EPOCH
# Accounts are written, and not made with useradd: that would note the day. What runs with more rights than its caller is
# made to run without them.
COPY --chmod=0755 tools/image /tmp/image
RUN ["/tmp/image"]
COPY --from=kubectl /out/kubectl /usr/local/bin/kubectl
COPY --from=sentry /out/sentry /opt/sentry/sentry

ARG VERSION=unknown
ARG REVISION=unknown
ARG BASE
LABEL org.opencontainers.image.title="Sentry" \
      org.opencontainers.image.description="Watches branches of Git repositories, rolls out groups of them, and follows their Tekton PipelineRuns to a verdict" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"

# State is in /var/lib/sentry. Everything else may be read-only, but for /tmp.
ENV SENTRY_CONFIG=/etc/sentry/sentry.yaml XDG_STATE_HOME=/var/lib LANG=C.UTF-8
VOLUME ["/var/lib/sentry"]
WORKDIR /opt/sentry
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/sentry/sentry"]
CMD ["watch"]
