#!/usr/bin/env bash
#
# big_store.sh - a tensor of 3 GB by every path in pieces: appended rows, uploaded chunks, a file out and in, a changed
# row, verification. No backend that it passes through takes more than 150 MB, shared buffers included. Then dump and
# restore of all of it, plain, custom and directory, and a backup. Run by "make test-long"; needs about 30 GB below /tmp.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/lib.sh"

trap 'ga_cluster_stop store immediate' EXIT
ga_cluster_start store "shared_preload_libraries = 'gpuagent'" "max_wal_size = '2GB'" "shared_buffers = '32MB'" "autovacuum = off"
for database in original restored; do ga_psql store -d postgres -c "CREATE DATABASE $database" >/dev/null; done
ga_psql store -d original -c 'CREATE EXTENSION gpuagent' >/dev/null
ga_psql store -d original -c 'SELECT gpuagent.setup()' >/dev/null

count=0
database=original
# One test: a query, in a session of its own, gives an expected line and took a bounded amount of memory: is NAME EXPECTED SQL.
# The peak is what the kernel saw of the backend.
is() {
	local got peak
	got=$(ga_psql store -d "$database" -At 2>&1 <<-EOF
		SET search_path = public, gpuagent;
		$3;
		SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s+(\d+)')::bigint / 1024;
	EOF
	) || true
	peak=$(tail -n 1 <<<"$got")
	got=$(sed '$d' <<<"$got")
	count=$((count + 1))
	if [ "$got" = "$2" ]; then echo "ok $count - $1"; else echo "not ok $count - $1"; sed 's/^/# got: /' <<<"$got"; fi
	count=$((count + 1))
	if [[ $peak =~ ^[0-9]+$ ]] && [ "$peak" -lt 150 ]; then echo "ok $count - in bounded memory ($peak MB)"; else echo "not ok $count - in bounded memory ($peak)"; fi
}

ga_psql store -d original -Atq <<'EOF'
SET search_path = public, gpuagent;
-- Chunk i of 3072, of which half compress and half do not, all different.
CREATE TABLE noise AS SELECT string_agg(sha256(int4send(i)), '') AS bytes FROM generate_series(1, 32767) i;
ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL;
CREATE FUNCTION content(i bigint) RETURNS bytea LANGUAGE sql STABLE AS $$
	SELECT sha256(int8send(i)) || CASE WHEN i % 2 = 0 THEN bytes ELSE convert_to(repeat('abcdefghijklmnop', 65534), 'UTF8') END FROM noise
$$;
CREATE TABLE part (i bigint, hash bytea);
EOF

is 'rows are appended in one transaction' '3072|3072' \
	"SELECT count(*), max(n) FROM (SELECT append_swarm('rows', tensor('U8', '{1,1048576}', content(i))) AS n FROM generate_series(1, 3072) i) a"
is 'chunks are uploaded; all are there already' '3072|0' \
	"WITH p AS (INSERT INTO part SELECT i, store_chunk(tensor('F32', '{262144}', content(i))) FROM generate_series(1, 3072) i RETURNING hash)
	 SELECT count(*), (SELECT count(*) FROM gpuagent_store.chunk) - 3072 FROM p"
is 'they make the same tensor' 't' \
	"SELECT store_tensor('U8', '{3072,1048576}', (SELECT array_agg(hash ORDER BY i) FROM part)) = tensor FROM gpuagent.swarm_version WHERE swarm = 'rows'"
is 'and one of F32' '1' \
	"SELECT store_weights_ref('expert', 'layer', store_tensor('F32', '{3072,262144}', (SELECT array_agg(hash ORDER BY i) FROM part)))"
is 'every chunk comes back as it was' '3072|t' \
	"SELECT count(*), bool_and(tensor_bytes(c.data) = content(c.ordinal)) FROM gpuagent.weight_version w, tensor_chunks(w.weights) c"
is 'and every row' '3072' \
	"SELECT sum((shape(data))[1]) FROM swarm_chunks('rows')"
is 'all of it is whole' '2|0' \
	"SELECT count(*), count(gpuagent_store.tensor_problem(hash)) FROM gpuagent_store.tensor WHERE nbytes = 3221225472 AND hash IN
	 (SELECT tensor FROM gpuagent.swarm_version UNION SELECT weights FROM gpuagent.weight_version)"
is 'a file of it' '3221229568' "SELECT nbytes FROM export_safetensors('expert', 'big')"
is 'the same from the file' 't' \
	"DO \$\$ BEGIN PERFORM import_safetensors('copy', 'big'); END \$\$;
	 SELECT count(DISTINCT weights) = 1 FROM gpuagent.weight_version"
is 'a changed row adds its chunk and the two nodes above it' '2|t|1|2' \
	"SELECT (SELECT count(*) FROM gpuagent_store.chunk) + (SELECT count(*) FROM gpuagent_store.chunk_delta) AS chunks \gset
	 SELECT count(*) AS nodes FROM gpuagent_store.node \gset
	 SELECT store_swarm_rows('rows', 2000, tensor('U8', '{1,1048576}', content(5000))) AS v \gset
	 SELECT :v, tensor_bytes(retrieve_swarm('rows', start => 2000, count => 1)) = content(5000),
	 (SELECT count(*) FROM gpuagent_store.chunk) + (SELECT count(*) FROM gpuagent_store.chunk_delta) - :chunks, (SELECT count(*) FROM gpuagent_store.node) - :nodes"
is 'a checkpoint copies nothing' '1|0' \
	"SELECT count(*) AS chunks FROM gpuagent_store.chunk \gset
	 SELECT create_checkpoint('all') AS id \gset
	 SELECT :id, count(*) - :chunks FROM gpuagent_store.chunk"

# Chunks, nodes and tensors, and what refers to them; a backup leaves out what nothing refers to.
objects="SELECT count(*) || md5(string_agg(md5(w::text), '' ORDER BY expert)) FROM gpuagent.weight_version w
	UNION ALL SELECT count(*) || md5(string_agg(md5(v::text), '' ORDER BY version)) FROM gpuagent.swarm_version v
	UNION ALL SELECT count(*) || md5(string_agg(md5(i::text), '' ORDER BY object, part, from_seq)) FROM gpuagent.checkpoint_item i"
digest="SELECT string_agg(d, ',' ORDER BY d) FROM (
	SELECT count(*) || md5(string_agg(c::text, ' ' ORDER BY c)) FROM (SELECT hash, nbytes FROM gpuagent_store.chunk UNION SELECT hash, nbytes FROM gpuagent_store.chunk_delta) c
	UNION ALL SELECT count(*) || md5(string_agg(DISTINCT md5(n::text), '')) FROM gpuagent_store.node n
	UNION ALL SELECT count(*) || md5(string_agg(DISTINCT md5(t::text), '')) FROM gpuagent_store.tensor t
	UNION ALL $objects) x(d)"

# The same in another database: compare NAME DATABASE QUERY.
compare() {
	count=$((count + 1))
	if [ "$(ga_psql store -d "$2" -AtqX -c "$3")" = "$(ga_psql store -d original -AtqX -c "$3")" ]; then echo "ok $count - $1"; else echo "not ok $count - $1"; fi
}

is 'a backup of all of it' '1' "SELECT create_backup('backups/all')"
is 'another writes no chunk' '2|t' \
	"SELECT create_backup('backups/all'), gpuagent_store.read_backup_manifest(gpuagent_store.backup_folder('backups/all')) ->> 'new_bytes' = '0'"
ga_psql store -d postgres -c 'CREATE DATABASE from_backup' >/dev/null
ga_psql store -d from_backup -c 'CREATE EXTENSION gpuagent' -c 'SELECT gpuagent.setup()' >/dev/null
database=from_backup
is 'a restore of it' 't' "SELECT count(*) > 2 FROM restore_backup('backups/all')"
is 'and all of it is whole' 'ok' "SELECT status FROM verify_integrity('full')"
compare 'and the same' from_backup "$objects"
ga_psql store -d postgres -c 'DROP DATABASE from_backup' >/dev/null

ga_private_folder "$GA_WORK/store/dump"
for format in directory custom plain; do
	dump=$GA_WORK/store/dump/$format
	case $format in
		directory) arguments=(-Fd -j2 -Z1) restore=(pg_restore -j2 -e -d restored "$dump") ;;
		custom) arguments=(-Fc -Z1) restore=(pg_restore -j2 -e -d restored "$dump") ;;
		plain) arguments=(-Fp) restore=(psql -Xq -o /dev/null -v ON_ERROR_STOP=1 -d restored -f "$dump") ;;
	esac
	ga_as pg_dump -h "$GA_WORK/store" -U postgres "${arguments[@]}" -f "$dump" original
	ga_as "${restore[@]}" -h "$GA_WORK/store" -U postgres
	compare "$format: dump and restore of all of it give the same rows" restored "$digest"
	rm -rf "$dump"
	ga_psql store -d postgres -c 'DROP DATABASE restored' -c 'CREATE DATABASE restored' >/dev/null
done
echo "1..$count"
