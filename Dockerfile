# The gateway as one static binary and the CA roots that it verifies the ERP with.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache build-base cmake perl ca-certificates
WORKDIR /src
COPY Cargo.toml Cargo.lock clippy.toml ./
COPY simulator simulator
COPY benches benches
COPY src src
# The caches outlive the layer: a change of the sources compiles the sources only.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin llavero \
    && cp target/release/llavero /llavero

FROM scratch
LABEL org.opencontainers.image.title="llavero" \
      org.opencontainers.image.description="A gateway between internal apps and the Admintotal ERP" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /llavero /usr/local/bin/llavero
# By number, so that Kubernetes can see that it isn't root.
USER 65532:65532
# Probes come from outside the container; the admin port stays off the public service.
ENV LLAVERO__SERVER__ADMIN_LISTEN=0.0.0.0:9090
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/llavero", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/llavero"]
CMD ["serve", "--config", "/etc/llavero/config/llavero.yaml"]
