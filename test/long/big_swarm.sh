#!/usr/bin/env bash
#
# big_swarm.sh - a swarm of 3 GB goes in and comes out in pieces of 64 MiB; every piece is compared by digest and the
# memory of the session that does it stays bounded.  Run by "make test-long"; needs about 10 GB below /tmp.

set -euo pipefail
# shellcheck source=test/harness/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../harness/lib.sh"

trap 'ga_cluster_stop big immediate' EXIT
ga_cluster_start big "shared_preload_libraries = 'gpuagent'" "max_wal_size = '1GB'" "shared_buffers = '64MB'"
ga_psql big -d postgres -c 'CREATE EXTENSION gpuagent' >/dev/null
ga_psql big -d postgres -c 'SELECT gpuagent.setup()' >/dev/null

# Peak memory of a backend is read from the kernel by the backend itself.
ga_psql big -d postgres -At <<'EOF'
SET search_path = public, gpuagent;
CREATE FUNCTION ok(number int, result boolean, name text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN result THEN 'ok ' ELSE 'not ok ' END || number || ' - ' || name
$$;
CREATE TABLE base AS SELECT substr(string_agg(sha256(i::text::bytea), ''), 33) AS bytes FROM generate_series(1, 32768) i;

-- Piece p: 64 chunks of 1 MiB that differ from all others, as 4,096 rows of 4,096 F32 (any bits are legal there).
CREATE FUNCTION piece(p bigint) RETURNS swarm_tensor LANGUAGE sql AS $$
	SELECT tensor('F32', '{4096,4096}', string_agg(sha256((p || '/' || c)::bytea) || bytes, '' ORDER BY c))
	FROM base, generate_series(1, 64) c
$$;
CREATE FUNCTION peak_mb() RETURNS bigint LANGUAGE sql AS $$
	SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s+(\d+)')::bigint / 1024
$$;
CREATE TABLE digest (p bigint, digest bytea);

DO $$
DECLARE
	data swarm_tensor;
BEGIN
	FOR p IN 1 .. 48 LOOP
		data := piece(p);
		PERFORM append_swarm('big', data);
		INSERT INTO digest VALUES (p, sha256(tensor_bytes(data)));
	END LOOP;
END $$;
SELECT ok(1, peak_mb() < 1024, 'storing took a bounded amount of memory: ' || peak_mb() || ' MB');
SELECT ok(2, count(*) = 1, 'it is one version') FROM swarm_version WHERE swarm = 'big';

\c
SET search_path = public, gpuagent;
SELECT ok(3, count(*) = 48, 'each piece comes back as it was')
FROM digest d WHERE digest = sha256(tensor_bytes(retrieve_swarm('big', start => 1 + (d.p - 1) * 4096, count => 4096)));
DO $$ BEGIN
	PERFORM retrieve_swarm('big');
	RAISE 'no error';
EXCEPTION WHEN program_limit_exceeded THEN NULL;
END $$;
SELECT ok(4, true, 'the whole of it is too large for one value, and says so');
SELECT ok(5, sum(nbytes(data)) = 48 * 67108864::bigint, 'swarm_chunks() gives all of it') FROM swarm_chunks('big');
SELECT ok(6, peak_mb() < 1024, 'reading took a bounded amount of memory: ' || peak_mb() || ' MB');
SELECT '1..6';
EOF
