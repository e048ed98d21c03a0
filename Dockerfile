# The gateway as one static binary, and the CA roots that it verifies the ERP with.
#
# Each platform builds natively: `docker buildx build --platform linux/amd64,linux/arm64` on machines of both, or
# emulated.
FROM docker.io/library/rust:1.95-slim-bookworm AS build
WORKDIR /src
# Linked whole, libc included: a scratch image has no loader. Debian's glibc (2.36) resolves names by /etc/hosts and
# DNS without loading anything.
ENV RUSTFLAGS="-C target-feature=+crt-static"

# The dependencies are a layer of their own, which only a change of the manifests makes anew: they are compiled with
# empty sources. What came of those is cleaned, since cargo goes by times, and the true sources can be older.
# Both secrets are optional: cargo's configuration, for a mirror of crates.io, and a CA file that it may name.
COPY Cargo.toml Cargo.lock ./
COPY simulator/Cargo.toml simulator/
RUN --mount=type=secret,id=cargo,target=/usr/local/cargo/config.toml \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    set -eu; \
    target=$(rustc --print host-tuple); \
    mkdir -p src simulator/src benches; \
    echo 'fn main() {}' >src/main.rs; \
    touch src/lib.rs simulator/src/lib.rs; \
    sed -n '/^\[\[bench\]\]/,/^$/s/^name = "\(.*\)"/benches\/\1.rs/p' Cargo.toml >benches/names; \
    xargs touch <benches/names; \
    cargo build --release --locked --target "$target" --bin llavero; \
    cargo clean --release --target "$target" --package llavero --package llavero-simulator; \
    rm -r src simulator/src

COPY simulator/src simulator/src
COPY src src
# In `/image` lies what the image holds. The program has to run to get there, which needs it to be static and whole.
RUN --mount=type=secret,id=cargo,target=/usr/local/cargo/config.toml \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    set -eu; \
    target=$(rustc --print host-tuple); \
    cargo build --release --locked --target "$target" --bin llavero; \
    install -D -m 755 "target/$target/release/llavero" /image/usr/local/bin/llavero; \
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt; \
    chroot /image /usr/local/bin/llavero --version

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="llavero" \
      org.opencontainers.image.description="A gateway between internal apps and the Admintotal ERP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=build /image/ /
# By number, so that Kubernetes can see that it isn't root.
USER 65532:65532
# Probes come from outside the container; the admin port stays off the public service.
ENV LLAVERO__SERVER__ADMIN_LISTEN=0.0.0.0:9090
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/llavero", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/llavero"]
CMD ["serve", "--config", "/etc/llavero/config/llavero.yaml"]
