#!/bin/sh
# The first start makes the database cluster in the volume; later starts find it there.
set -eu

if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    if [ -z "${POSTGRES_PASSWORD_FILE:-}" ] && [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "entrypoint: give POSTGRES_PASSWORD, or POSTGRES_PASSWORD_FILE with the path of a secret" >&2
        exit 1
    fi
    password=$(mktemp)
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then cat "$POSTGRES_PASSWORD_FILE" > "$password"; else printf %s "$POSTGRES_PASSWORD" > "$password"; fi
    initdb --username="$user" --pwfile="$password" --auth-host=scram-sha-256 --auth-local=trust --encoding=UTF8 --locale=C.UTF-8
    rm -f "$password"
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    if [ "$database" != postgres ]; then
        # A temporary server without TCP, so that nobody connects before the database is ready.
        pg_ctl -w -o "-c listen_addresses=''" start
        createdb --username="$user" "$database"
        pg_ctl -m fast -w stop
    fi
fi

if [ "$1" = postgres ]; then
    shift
    exec postgres -c listen_addresses='*' "$@"
fi
exec "$@"
