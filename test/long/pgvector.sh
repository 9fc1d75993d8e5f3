#!/usr/bin/env bash
#
# pgvector.sh - gpuagent_pgvector with Debian's pgvector on PostgreSQL 17: casts, and every answer of gpuknn on columns of
# vector and halfvec equal to the sequential scan's, with pgvector's own distances. Run by "make test-long", as root.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/lib.sh"
# shellcheck source=test/harness/debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/debian.sh"

ga_debian_root "postgresql-$GA_DEBIAN_MAJOR-pgvector"
bin=/usr/lib/postgresql/$GA_DEBIAN_MAJOR/bin
rm -rf "$GA_DEBIAN/var/pgvector"
mkdir "$GA_DEBIAN/var/pgvector"
cp "$GA_ROOT/test/long/pgvector.sql" "$GA_DEBIAN/var/pgvector/"
chroot "$GA_DEBIAN" chown -R postgres /var/pgvector

inside() { chroot "$GA_DEBIAN" runuser -u postgres -- env -C /var/pgvector LANG=C.UTF-8 TZ=UTC "$@"; }
trap 'inside $bin/pg_ctl -D /var/pgvector/data -m immediate -w stop >/dev/null 2>&1 || true' EXIT
inside $bin/initdb -D /var/pgvector/data -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null
printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '/var/pgvector'" "shared_preload_libraries = 'gpuagent'" \
	"fsync = off" "jit = off" "work_mem = '64kB'" "max_parallel_workers_per_gather = 0" >>"$GA_DEBIAN/var/pgvector/data/postgresql.conf"
inside $bin/pg_ctl -D /var/pgvector/data -l /var/pgvector/log -w start >/dev/null
inside $bin/psql -XAtq -v ON_ERROR_STOP=1 -h /var/pgvector -U postgres -d postgres -f /var/pgvector/pgvector.sql
