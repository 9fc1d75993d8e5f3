#!/usr/bin/env bash
#
# bounded.sh - 10,000 saves in a loop, with collection, autovacuum and retention as they come: every save stores weights
# and a swarm, makes a checkpoint and prunes to five. Prints the curve of the store's size; in the end exactly what is kept
# is left, and the size never grew beyond what the first tenth took. Run by "make test-long"; needs about 2 GB below /tmp.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/lib.sh"

saves=${GA_SAVES:-10000}
trap 'ga_cluster_stop bounded immediate' EXIT
ga_cluster_start bounded "shared_preload_libraries = 'gpuagent'" "max_wal_size = '1GB'" "autovacuum_naptime = '5s'" \
	"gpuagent.collect_interval = 2" "gpuagent.collect_grace = 0" "gpuagent.auto_save_interval = 0" "synchronous_commit = off"
sql() { ga_psql bounded -d bounded -At "$@"; }
ga_psql bounded -d postgres -c 'CREATE DATABASE bounded' >/dev/null
sql -q -c 'CREATE EXTENSION gpuagent' >/dev/null
sql -q -c 'SELECT gpuagent.setup()' >/dev/null
sql -q <<'SQL' >/dev/null
CREATE FUNCTION content(i bigint, n bigint) RETURNS gpuagent.swarm_tensor LANGUAGE sql AS $$
	SELECT gpuagent.tensor('U8', ARRAY[n], substring(string_agg(sha512(int8send(i * 1000000 + k)), '' ORDER BY k) FROM 1 FOR n::int))
	FROM generate_series(1, n / 64 + 1) k
$$;
CREATE PROCEDURE save(first int, last int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN first .. last LOOP
		PERFORM gpuagent.store_weights('e', 'w', content(i, 300000));
		PERFORM gpuagent.prune_weights('e', 2);
		PERFORM gpuagent.store_swarm('s', content(-i, 1100000 + i % 7));
		PERFORM gpuagent.create_checkpoint();
		PERFORM count(*) FROM gpuagent.prune_checkpoints(keep_last => 5);
		COMMIT;
	END LOOP;
END $$;
INSERT INTO gpuagent.swarm (swarm, keep_versions) VALUES ('s', 2);
SQL

count=0
ok() {
	count=$((count + 1))
	if [ "$2" = t ]; then echo "ok $count - $1"; else echo "not ok $count - $1 ($2)"; fi
}
size() {
	sql -c "SELECT sum(pg_total_relation_size('gpuagent_store.' || t)) / 1048576 FROM unnest('{chunk,chunk_delta,node,tensor,doomed}'::text[]) t" |
		cut -d. -f1
}

step=$((saves / 50))
sizes=()
for ((i = 0; i < 50; i++)); do
	sql -q -c "CALL save($((i * step + 1)), $(((i + 1) * step)))"
	sizes+=("$(size)")
	echo "# after $(((i + 1) * step)) saves: ${sizes[i]} MiB"
done
early=0
late=0
for ((i = 0; i < 50; i++)); do
	if ((i < 10)); then ((sizes[i] > early)) && early=${sizes[i]}; elif ((sizes[i] > late)); then late=${sizes[i]}; fi
done
ok "the largest size later ($late MiB) is at most half more than in the first fifth ($early MiB)" "$(((2 * late <= 3 * early)) && echo t || echo f)"
for ((i = 0; i < 120; i++)); do
	[ "$(sql -c "SELECT phase FROM gpuagent.stat_collection WHERE phase = 'idle' AND doomed = 0")" = idle ] && sleep 3 &&
		[ "$(sql -c "SELECT phase FROM gpuagent.stat_collection")" = idle ] && break
	sleep 1
done
ok "what is left is what is referred to" "$(sql -c "
	SELECT (SELECT count(DISTINCT hash) FROM gpuagent_store.tensor) = (SELECT count(*) FROM (
		SELECT tensor FROM gpuagent.swarm_version UNION SELECT weights FROM gpuagent.weight_version
		UNION SELECT tensor FROM gpuagent.checkpoint_item WHERE tensor IS NOT NULL) x)")"
ok "and whole" "$(sql -c "SELECT count(gpuagent_store.tensor_problem(hash)) = 0 FROM gpuagent_store.tensor")"
sql -c "SELECT '# ' || stat_collection::text FROM gpuagent.stat_collection"
echo "1..$count"
