# The service and the simulator in one small image: one binary, no shell, not root.
FROM rust:1-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked && cp target/release/patchcord /patchcord && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /patchcord /usr/local/bin/patchcord
COPY --from=build /source/media/prompts /usr/share/patchcord/prompts
# The store and the recordings are written here.
COPY --from=build --chown=nonroot:nonroot /data /data
WORKDIR /data
USER nonroot
ENTRYPOINT ["/usr/local/bin/patchcord"]
CMD ["serve", "--config", "/etc/patchcord/patchcord.toml"]
