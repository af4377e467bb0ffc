# The gateway and its page as a small image, running as a user without rights.
#
#   docker build -t herald .
#   docker run --rm herald --help

# The same Rust as in rust-toolchain.toml, so that none is downloaded again.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin herald \
 && strip --strip-unneeded target/release/herald

# The page; nothing of Node goes into the image. As in script/server, no package may run a program of its own while it is installed.
FROM node:24-bookworm-slim AS web
WORKDIR /src/web
COPY web .
RUN npm ci --ignore-scripts \
 && npm run build

# The same Debian as the build's, with the certificates of public authorities (a JWKS may be fetched over https) and a
# user without rights and without a home.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 65532 --user-group --no-create-home --shell /usr/sbin/nologin herald
COPY --from=build /src/target/release/herald /usr/local/bin/herald
COPY --from=build /src/LICENSE-MIT /src/LICENSE-APACHE /usr/share/doc/herald/
COPY --from=web /src/web/app/dist /usr/share/herald/web
# Within a container loopback reaches nobody.
ENV HERALD_BIND=0.0.0.0:4000
# Set it to nothing to serve no page.
ENV HERALD_WEB_ROOT=/usr/share/herald/web
EXPOSE 4000
USER herald
# By TLS if HERALD_TLS_CERT is set. Alive, not ready: restarting the gateway because its database is away would only cut the connections it holds.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/local/bin/herald", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/herald"]
CMD ["serve"]
