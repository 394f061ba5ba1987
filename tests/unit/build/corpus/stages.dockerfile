ARG VERSION=3.11
ARG REGISTRY
FROM --platform=$BUILDPLATFORM ${REGISTRY:-docker.io}/python:${VERSION} AS Build
WORKDIR /src
COPY --link . .
FROM build as test
RUN --network=none ["pytest", "-q"]
FROM scratch
COPY --from=Build --chown=1000:1000 /src/out /out/
COPY --from=0 /src/a /a
COPY --from=docker.io/library/busybox:latest /bin/busybox /bin/
ENTRYPOINT ["/out/run"]
