#!/usr/bin/env bash
#
# upgrade.sh - pg_upgrade from the server under test (15 or 16) to PostgreSQL 17: every table equal, checkpoints restore to
# the same bits, dirty tracking goes on under the new system identifier, a backup of the old server restores into the new one.
#
# Both servers run in one folder (test/harness/debian.sh): Debian's release with 17, the old server's private copy
# and the libraries that it misses there.
# Run by "make test-long", as root.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/lib.sh"
# shellcheck source=test/harness/debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/debian.sh"

major=$GA_DEBIAN_MAJOR
count=0
failed=0

verdict() {
	count=$((count + 1))
	if [ "$2" = "$3" ]; then
		echo "ok $count - $1"
	else
		failed=$((failed + 1))
		echo "not ok $count - $1"
		diff <(printf '%s\n' "$3") <(printf '%s\n' "$2") | head -20 | sed 's/^/# /'
	fi
}

old_major=$("$GA_PG_CONFIG" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
[ "$old_major" -lt $major ] || die "there is nothing to upgrade from $old_major to $major"

# ---- the folder ----
ga_debian_root
root=$GA_DEBIAN
new_bin=/usr/lib/postgresql/$major/bin
rm -rf "$root/opt/old" "$root/opt/old-lib" "$root/var/upgrade"
mkdir -p "$root/opt/old" "$root/opt/old-lib" "$root/var/upgrade"

# The old server, with the libraries that are not in the folder under their names.
cp -a "$GA_WORK/pg/." "$root/opt/old/"
old_bin=/opt/old${GA_BIN#"$GA_WORK/pg"}
find "$root/opt/old" -type f \( -path '*/bin/*' -o -name '*.so' \) -exec ldd {} + 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' | sort -u |
	while read -r name path; do
		find "$root/lib/" "$root/usr/lib/" -name "$name" -print -quit | grep -q . || cp -L "$path" "$root/opt/old-lib/$name"
	done
chroot "$root" chown postgres /var/upgrade

inside() { chroot "$root" runuser -u postgres -- env -C /var/upgrade LD_LIBRARY_PATH=/opt/old-lib LANG=C.UTF-8 TZ=UTC "$@"; }
start() { inside "$1/pg_ctl" -D "/var/upgrade/$2" -l "/var/upgrade/$2.log" -w start >/dev/null || { tail -20 "$root/var/upgrade/$2.log"; die "server $2 does not start"; }; }
stop() { inside "$1/pg_ctl" -D "/var/upgrade/$2" -m "${3:-fast}" -w stop >/dev/null; }
sql() { inside $new_bin/psql -XAtq -v ON_ERROR_STOP=1 -h /var/upgrade -U postgres -d "${2:-work}" -c "$1"; }
trap 'stop "$old_bin" old immediate 2>/dev/null || true; stop $new_bin new immediate 2>/dev/null || true' EXIT

make_cluster() {
	inside "$1/initdb" -D "/var/upgrade/$2" -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null
	cat >>"$root/var/upgrade/$2/postgresql.conf" <<-CONF
	listen_addresses = ''
	unix_socket_directories = '/var/upgrade'
	shared_preload_libraries = 'gpuagent'
	gpuagent.device = host
	gpuagent.storage_path = '/var/upgrade/tree'
	autovacuum = off
	fsync = off
	jit = off
	CONF
}

# One line a table: rows and digest of all of them as text.
tables() {
	local t
	for t in $(sql "SELECT c.oid::regclass FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace)
			ORDER BY c.oid::regclass::text COLLATE \"C\"" "$1"); do
		echo "$t $(sql "SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '') FROM $t t" "$1")"
	done
}

# Elements of what is stored now, by functions, not by tables.
elements="SELECT md5(string_agg(b, ',' ORDER BY b)) FROM (
	SELECT id || gpuagent.tensor_bytes(state)::text AS b FROM gpuagent.agent WHERE state IS NOT NULL
	UNION ALL SELECT 'n' || id || gpuagent.tensor_bytes(embedding)::text FROM gpuagent.graph_node WHERE embedding IS NOT NULL
	UNION ALL SELECT 's' || swarm || md5(gpuagent.tensor_bytes(gpuagent.retrieve_swarm(swarm))) FROM gpuagent.swarm
	UNION ALL SELECT 'e' || layer || md5(gpuagent.tensor_bytes(weights)) FROM gpuagent.load_weights('e')
	UNION ALL SELECT 'm' || id || value FROM gpuagent.metric) x"

# ---- the old server ----
make_cluster "$old_bin" old
start "$old_bin" old
sql 'CREATE DATABASE work' postgres
sql 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()' >/dev/null
sql "SET search_path = public, gpuagent;
	SELECT count(store_agent('a' || i, ARRAY[i, -0.0, 'NaN', 1e-45, 0.1]::real[]::agent_state, 'F64[2]:raw:AQAAAAAA+P8BAAAAAAD4fw==', i % 3,
		i / 7.0, jsonb_build_object('i', i))) FROM generate_series(1, 3000) i;
	INSERT INTO graph (graph) VALUES ('g');
	INSERT INTO graph_node (graph, id, embedding) SELECT 'g', 'n' || i, ARRAY[i, i / 3.0, -0.0]::real[] FROM generate_series(1, 300) i;
	INSERT INTO graph_edge (graph, source, target, edge_type, weight) SELECT 'g', 'n' || i, 'n' || i + 1, 'next', i / 3.0 FROM generate_series(1, 299) i;
	SELECT max(append_swarm('big', tensor('U8', '{1,1048576}', (SELECT string_agg(sha256(int8send(j * 32768 + i)), '') FROM generate_series(1, 32768) j))))
		FROM generate_series(1, 70) i;
	SELECT store_weights('e', 'w', tensor('F32', '{500,1000}', (SELECT string_agg(sha256(int4send(i)), '') FROM generate_series(1, 62500) i)), '[1,2]');
	INSERT INTO run (run) VALUES ('r');
	INSERT INTO metric (run, key, step, value) SELECT 'r', 'loss', i, 1.0 / i FROM generate_series(1, 100) i;" >/dev/null
one=$(sql "SELECT gpuagent.create_checkpoint('one')")
at_one=$(sql "$elements")
sql "SELECT gpuagent.store_agent('a1', fitness => 99), gpuagent.delete_agent('a2');
	SELECT gpuagent.store_swarm_rows('big', 3, gpuagent.tensor('U8', '{1,1048576}', convert_to(repeat('0123456789abcdef', 65536), 'UTF8')));
	SELECT gpuagent.store_weights('e', 'w', '[[1,2],[3,4]]'), gpuagent.store_weights('e', 'v', 'BF16:[1.5]')" >/dev/null
two=$(sql "SELECT gpuagent.create_checkpoint('two')")
sql "SELECT gpuagent.set_checkpoint_alias('good', $two); SELECT * FROM gpuagent.export_checkpoint($two); SELECT gpuagent.create_backup('backups/old')" >/dev/null
sql "ALTER TABLE gpuagent.agent ADD COLUMN tenant text DEFAULT 'x'; CREATE INDEX users_index ON gpuagent.agent (tenant)"
sql "SELECT gpuagent.store_agent('a3', fitness => 5)" >/dev/null
at_end=$(sql "$elements")
old_source=$(sql 'SELECT gpuagent_store.xid_source()')
old_tables=$(tables work)
stop "$old_bin" old

# ---- the upgrade ----
make_cluster $new_bin new
inside $new_bin/pg_upgrade -b "$old_bin" -B $new_bin -d /var/upgrade/old -D /var/upgrade/new -U postgres --socketdir=/var/upgrade \
	>"$GA_WORK/out/pg_upgrade.log" 2>&1 || { tail -40 "$GA_WORK/out/pg_upgrade.log"; cat "$root"/var/upgrade/new/pg_upgrade_output.d/*/log/*.log | grep -A3 ERROR | head -20; die "pg_upgrade failed"; }
start $new_bin new
verdict "the server is $major" "$(sql 'SELECT current_setting($$server_version_num$$)::int / 10000')" $major
verdict "every table is equal" "$(tables work)" "$old_tables"
verdict "every element is equal" "$(sql "$elements")" "$at_end"
verdict "every hash and digest, computed again" "$(sql "SELECT status FROM gpuagent.verify_integrity('full')")" ok
verdict "setup() has nothing to do" "$(sql "SELECT gpuagent.setup(); SELECT status FROM gpuagent.check_setup() WHERE item = 'tables'")" $'\nok'
verdict "the new server counts transactions by another name" "$(sql "SELECT gpuagent_store.xid_source() <> '$old_source'")" t
verdict "the index of a user is there" "$(sql "SELECT count(*) FROM pg_indexes WHERE indexname = 'users_index'")" 1

# What changed since the last checkpoint of the old server, and what changes now, is found; nothing else.
sql "SELECT gpuagent.store_agent('a4', fitness => 6), gpuagent.store_agent('a5', fitness => (5 / 7.0)::float8)" >/dev/null
three=$(sql "SELECT gpuagent.create_checkpoint('three')")
verdict "a checkpoint finds what changed" "$(sql "SELECT string_agg(part || ' ' || change, ',') FROM gpuagent.checkpoint_diff($two, $three)")" \
	"a3 changed,a4 changed,a5 changed"
verdict "and the next one has a horizon again: nothing to write" "$(sql "SELECT gpuagent.create_checkpoint() = $three")" t
verdict "the first checkpoint comes back" "$(sql "SELECT count(*) > 3 FROM gpuagent.restore_checkpoint($one)")" t
verdict "bit by bit" "$(sql "$elements")" "$at_one"
verdict "an export of the old server is whole" "$(sql "SELECT count(*) FROM gpuagent_store.verify_export((SELECT exported_path FROM gpuagent.checkpoint WHERE id = $two), 'deep', $two)")" 0
verdict "versions go on" "$(sql "SELECT gpuagent.store_swarm('big', '[1]') > 2, gpuagent.resolve_checkpoint('@good') = $two")" 't|t'

# A backup of the old server, into a new database.
sql 'CREATE DATABASE other' postgres
sql 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()' other >/dev/null
sql "SELECT * FROM gpuagent.restore_backup('backups/old')" other >/dev/null
verdict "a backup of the old server restores" "$(sql "SELECT status FROM gpuagent.verify_integrity('full')" other)" ok
sql "SELECT * FROM gpuagent.restore_checkpoint($one)" other >/dev/null
verdict "with its checkpoints" "$(sql "$elements" other)" "$at_one"
echo "1..$count"
[ "$failed" = 0 ]
