# The gateway as a small image without a shell, running as a user without rights.
#
#   docker build -t herald .
#   docker run --rm herald --help

# The same Rust as in rust-toolchain.toml, so that none is downloaded again.
FROM docker.io/library/rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin herald \
 && strip --strip-unneeded target/release/herald

# glibc, the certificates of public authorities, and a user named nonroot (65532). Its tag names the Debian release;
# rebuilding takes in that release's security updates.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/herald /usr/local/bin/herald
COPY --from=build /src/LICENSE-MIT /src/LICENSE-APACHE /usr/share/doc/herald/
# Within a container loopback reaches nobody.
ENV HERALD_BIND=0.0.0.0:4000
EXPOSE 4000
USER nonroot
# Alive, not ready: restarting the gateway because its database is away would only cut the connections it holds.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/local/bin/herald", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/herald"]
CMD ["serve"]
