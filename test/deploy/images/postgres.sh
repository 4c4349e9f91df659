# As the official image: makes the database of POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD_FILE, and serves it.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
mkdir -p "$data"
chown postgres "$data"
as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
if [ ! -e "$data/PG_VERSION" ]; then
  install -m 600 -o postgres "$POSTGRES_PASSWORD_FILE" /tmp/password
  as "$bin/initdb" -D "$data" -U "$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust \
    --auth-host=scram-sha-256 ${POSTGRES_INITDB_ARGS:-}
  echo 'host all all all scram-sha-256' >> "$data/pg_hba.conf"
  as "$bin/pg_ctl" -D "$data" -w -o '-c listen_addresses=' start
  as "$bin/createdb" -h /var/run/postgresql -U "$POSTGRES_USER" "$POSTGRES_DB"
  as "$bin/pg_ctl" -D "$data" -w stop
fi
shift
exec setpriv --reuid=postgres --regid=postgres --init-groups \
  "$bin/postgres" -D "$data" -c 'listen_addresses=*' "$@"
