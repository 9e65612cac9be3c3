# The released image: one static binary in an empty file system.
FROM golang:1.26 AS build
WORKDIR /src
# Modules first: with them in the layer cache the build itself needs no network.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -tags urfave_cli_no_docs \
	-ldflags "-s -w -X main.version=${VERSION}" -o /volprep .

FROM scratch
COPY --from=build /volprep /volprep
LABEL org.opencontainers.image.title="volprep" \
	org.opencontainers.image.description="Prepares volumes before an inference server starts, with CAP_CHOWN and CAP_FOWNER alone" \
	org.opencontainers.image.licenses="Apache-2.0"
# Root in name: with every capability dropped but CHOWN and FOWNER, uid 0 is
# only the uid to which a container engine gives those two.
USER 0
ENTRYPOINT ["/volprep"]
CMD ["apply"]
