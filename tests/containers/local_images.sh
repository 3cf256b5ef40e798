#!/usr/bin/env bash
# Build stand-ins for the public base images on a Debian machine without access to an image registry:
#
#   debian:trixie-slim  by debootstrap;  python:3.13-slim, redis:7.4-alpine and postgres:17-alpine from Debian's packages.
#
# They have the public names so that the Dockerfile and the tests work unchanged, but they are not the public
# images: the one named redis:7.4-alpine is Debian with Redis 8.0. Only for `make test-containers` on such a machine.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"

debootstrap --variant=minbase --include=ca-certificates trixie root
tar -C root -c . | docker import - debian:trixie-slim

# pip must trust this machine's authorities if the package index is reached through an intercepting proxy.
cp /etc/ssl/certs/ca-certificates.crt host-ca.crt

docker build --network host -t python:3.13-slim -f - . <<'DOCKERFILE'
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python-is-python3 \
    && rm -rf /var/lib/apt/lists/*
# The public image contains pip, which our image must remove.
RUN python -m venv /tmp/venv && mkdir -p /usr/local/lib/python3.13/dist-packages \
    && mv /tmp/venv/lib/python3.13/site-packages/pip* /usr/local/lib/python3.13/dist-packages/ && rm -r /tmp/venv \
    && printf '#!/usr/bin/python3\nfrom pip._internal.cli.main import main\nmain()\n' >/usr/local/bin/pip \
    && chmod 755 /usr/local/bin/pip
COPY host-ca.crt /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
DOCKERFILE

docker build --network host -t redis:7.4-alpine - <<'DOCKERFILE'
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /data && chown 999:999 /data
WORKDIR /data
USER 999:999
CMD ["redis-server"]
DOCKERFILE

# The part of the public image's entrypoint that base/postgres/ relies on.
cat >entrypoint <<'SCRIPT'
#!/bin/sh
set -eu
PATH=/usr/lib/postgresql/17/bin:$PATH
: "${PGDATA:=/var/lib/postgresql/data}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
    initdb --username=postgres --pwfile=/tmp/password --auth-host=scram-sha-256 --auth-local=trust -D "$PGDATA"
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    for script in /docker-entrypoint-initdb.d/*.sh; do . "$script"; done
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@" -c listen_addresses='*'
SCRIPT
# Here, since Debian 12's engine does not support `COPY --chmod`.
chmod 755 entrypoint
docker build --network host -t postgres:17-alpine -f - . <<'DOCKERFILE'
FROM debian:trixie-slim
RUN groupadd -g 70 postgres && useradd -u 70 -g 70 postgres \
    && apt-get update && apt-get install -y --no-install-recommends postgresql-17 && rm -rf /var/lib/apt/lists/* \
    && chown 70:70 /var/run/postgresql
COPY entrypoint /usr/local/bin/entrypoint
ENV PATH=/usr/lib/postgresql/17/bin:$PATH
USER 70:70
ENTRYPOINT ["entrypoint"]
CMD ["postgres"]
DOCKERFILE
