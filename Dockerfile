# The image: CoreDNS with all of its own plugins and dnsguard, in the place of the stock one. It is what CoreDNS's own image is: one static
# binary at /coredns, no shell, not root, and able to bind port 53 all the same.
#
#     docker build --build-arg VERSION=1.2.3 -t coredns-dnsguard:1.2.3 .
#
# It is built on the platform of the machine for the platform that is asked for (--platform linux/amd64,linux/arm64), without emulation.

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
RUN command -v setcap >/dev/null || { apt-get -qq update && apt-get -qq -y --no-install-recommends install libcap2-bin; }
WORKDIR /src
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG TARGETVARIANT
ARG VERSION
ARG REVISION
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH GOARM=${TARGETVARIANT#v} \
    go build -trimpath -buildvcs=false -o /coredns \
    -ldflags "-s -w ${VERSION:+-X main.version=$VERSION} ${REVISION:+-X github.com/coredns/coredns/coremain.GitCommit=$REVISION}" ./cmd/coredns \
    && setcap cap_net_bind_service=+ep /coredns

FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="CoreDNS with dnsguard" \
      org.opencontainers.image.description="CoreDNS with a plugin that forwards queries around upstreams that fail, refuse or deny what they cannot know" \
      org.opencontainers.image.source="https://github.com/dnsguard/dnsguard" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /coredns /coredns
# In numbers, so that Kubernetes can see that it is not root (runAsNonRoot). It is distroless' user nonroot.
USER 65532:65532
# The base image has a directory of its own here; the stock image has this one, and paths in a Corefile are relative to it.
WORKDIR /
EXPOSE 53/udp 53/tcp
ENTRYPOINT ["/coredns"]
