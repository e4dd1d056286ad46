# The four images of compose.yaml: `docker compose up --build` needs nothing but
# Docker. Releases and clusters have those of ko instead (.ko.yaml), which have no shell;
# these have one for the health checks. The programs are at the same paths in both.
FROM --platform=$BUILDPLATFORM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags="-s -w" -o /out/ ./taskapi ./bridge ./notifier ./auditor

FROM alpine:3.22 AS base
# A volume takes the owner of the folder that it is mounted over.
RUN install -d -o 65532 -g 65532 -m 0700 /keys
USER 65532:65532

FROM base AS taskapi
COPY --from=build /out/taskapi /ko-app/taskapi
ENTRYPOINT ["/ko-app/taskapi"]

FROM base AS bridge
COPY --from=build /out/bridge /ko-app/bridge
ENTRYPOINT ["/ko-app/bridge"]

FROM base AS notifier
COPY --from=build /out/notifier /ko-app/notifier
ENTRYPOINT ["/ko-app/notifier"]

FROM base AS auditor
COPY --from=build /out/auditor /ko-app/auditor
ENTRYPOINT ["/ko-app/auditor"]
