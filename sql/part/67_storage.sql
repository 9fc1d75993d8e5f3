
-- STORAGE: what the store takes, and making it take less. The protocol of compaction is at the top of src/store/compact.c.
CREATE FUNCTION gpuagent_store.recode_chunks(kind text, hashes bytea[], bases bytea[] DEFAULT '{}')
    RETURNS TABLE (changed bigint, freed bigint, damaged bigint)
    AS 'MODULE_PATHNAME', 'ga_recode_chunks' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent_store.recode_chunks(text, bytea[], bytea[]) IS
    'encodes stored chunks anew; kind row: one row of chunk, packed as the settings say, in place of all; delta: also as what differs from a base; check: drops the row of what is a delta; whole: a row in place of a delta. Only under lock_store_maintenance()';

CREATE FUNCTION gpuagent_store.changed_chunks(tensor bytea, previous bytea, start bigint, count bigint)
    RETURNS TABLE (number bigint, hash bytea, before bytea)
    AS 'MODULE_PATHNAME', 'ga_changed_chunks' LANGUAGE C STABLE STRICT PARALLEL SAFE ROWS 64;
COMMENT ON FUNCTION gpuagent_store.changed_chunks(bytea, bytea, bigint, bigint) IS
    'up to count chunks of a tensor, from 0-based start on, that differ from those at the same place of another, with the hash of that';

CREATE FUNCTION gpuagent_store.merge_rows() RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_merge_rows' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent_store.merge_rows() IS
    'deletes rows of node, tensor and chunk_delta that equal another one in all columns, up to 10,000 of each; how many. Only under lock_store_maintenance()';

CREATE FUNCTION gpuagent_store.stored_versions() RETURNS TABLE (kind text, object text, part text, version bigint, tensor bytea)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000 SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'swarms', 'swarm:' || v.swarm, '', v.version, v.tensor FROM gpuagent.swarm_version v
    UNION ALL SELECT 'weights', 'expert:' || w.expert, 'layer:' || w.layer, w.version, w.weights
        FROM gpuagent.weight_version w WHERE w.weights IS NOT NULL
    UNION ALL SELECT 'weights', 'expert:' || w.expert, 'biases:' || w.layer, w.version, w.biases
        FROM gpuagent.weight_version w WHERE w.biases IS NOT NULL
    UNION ALL SELECT 'checkpoints', i.object, i.part, i.from_seq, i.tensor FROM gpuagent.checkpoint_item i WHERE i.tensor IS NOT NULL
    UNION ALL SELECT 'checkpoints', i.object, i.part || ':biases', i.from_seq, i.biases FROM gpuagent.checkpoint_item i WHERE i.biases IS NOT NULL
$$;
COMMENT ON FUNCTION gpuagent_store.stored_versions() IS 'every reference from a swarm, a layer or a checkpoint to a tensor of the store';

CREATE FUNCTION gpuagent_store.without_doomed(hashes bytea[]) RETURNS bytea[]
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept bytea[] := hashes;
BEGIN
    IF to_regclass('gpuagent_store.doomed') IS NOT NULL THEN
        SELECT COALESCE(array_agg(h ORDER BY o), '{}') INTO kept FROM unnest(hashes) WITH ORDINALITY u (h, o)
            WHERE NOT EXISTS (SELECT FROM gpuagent_store.doomed d WHERE d.hash = h);
    END IF;
    RETURN COALESCE(kept, '{}');
END
$$;
COMMENT ON FUNCTION gpuagent_store.without_doomed(bytea[]) IS 'those of the hashes that garbage collection has not marked';

-- The parts of compaction. Each does a part of its work, from place on, and returns where it goes on, NULL when it is done.
CREATE FUNCTION gpuagent_store.compact_rows(place bigint, INOUT freed bigint, INOUT damaged bigint, OUT next bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted bigint := current_setting('gpuagent.compression_level')::bigint;
    pages bigint := pg_relation_size('gpuagent_store.chunk') / current_setting('block_size')::bigint;
    hashes bytea[];
    places tid[];
    r record;
BEGIN
    -- A place is a page of the table and a line of it, as one number.
    IF NOT current_setting('gpuagent.compression')::boolean OR place >= pages << 16 THEN
        RETURN;
    END IF;
    SELECT array_agg(c.hash), array_agg(c.ctid) INTO hashes, places FROM (
        SELECT k.hash, k.ctid FROM gpuagent_store.chunk k
        WHERE k.ctid >= format('(%s,%s)', place >> 16, place & 65535)::tid AND k.ctid < format('(%s,0)', (place >> 16) + 256)::tid
            AND (k.level <> wanted OR (k.codec = 0 AND k.level IS NULL))
        ORDER BY k.ctid LIMIT 64) c;
    next := ((place >> 16) + 256) << 16;
    IF cardinality(hashes) = 64 THEN
        next := (split_part(trim('()' FROM places[64]::text), ',', 1)::bigint << 16)
            + split_part(trim('()' FROM places[64]::text), ',', 2)::bigint + 1;
    END IF;
    SELECT * INTO r FROM gpuagent_store.recode_chunks('row',
        ARRAY(SELECT DISTINCT h FROM unnest(gpuagent_store.without_doomed(hashes)) h));
    freed := freed + r.freed;
    damaged := damaged + r.damaged;
END
$$;
COMMENT ON FUNCTION gpuagent_store.compact_rows(bigint, bigint, bigint) IS
    'a part of compaction: chunks that were stored raw, or at another level';

CREATE FUNCTION gpuagent_store.compact_duplicates(place bigint, INOUT freed bigint, INOUT damaged bigint, OUT next bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hashes bytea[] := ARRAY(SELECT c.hash FROM gpuagent_store.chunk c GROUP BY c.hash HAVING count(*) > 1 LIMIT 64);
    r record;
    n bigint;
BEGIN
    SELECT * INTO r FROM gpuagent_store.recode_chunks('row', gpuagent_store.without_doomed(hashes));
    freed := freed + r.freed;
    damaged := damaged + r.damaged;
    n := gpuagent_store.merge_rows();
    IF r.changed > 0 OR n > 0 THEN
        next := place + 1;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.compact_duplicates(bigint, bigint, bigint) IS 'a part of compaction: one row for each hash';

CREATE FUNCTION gpuagent_store.compact_versions(place bigint, INOUT freed bigint, INOUT damaged bigint, OUT next bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    work record;
    r record;
    hashes bytea[];
    bases bytea[];
    seen bigint;
    last bigint;
BEGIN
    IF NOT current_setting('gpuagent.compression')::boolean THEN
        RETURN;
    END IF;
    IF place = 0 THEN
        DELETE FROM gpuagent_store.compact_tensor q WHERE NOT EXISTS (SELECT FROM gpuagent_store.tensor t WHERE t.hash = q.tensor);
        INSERT INTO gpuagent_store.compact_tensor (tensor, previous, next_chunk)
            SELECT v.tensor, (array_agg(v.previous ORDER BY v.version))[1], 0
            FROM (SELECT s.tensor, s.version, lag(s.tensor) OVER (PARTITION BY s.kind, s.object, s.part ORDER BY s.version) AS previous
                  FROM gpuagent_store.stored_versions() s) v
            WHERE v.previous <> v.tensor GROUP BY v.tensor ORDER BY min(v.version)
            ON CONFLICT DO NOTHING;
    END IF;
    SELECT q.* INTO work FROM gpuagent_store.compact_tensor q WHERE q.next_chunk IS NOT NULL ORDER BY q.id LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    next := place + 1;
    BEGIN
        -- What has a row of its own, is no delta and no base of one, against what stood there or the base of that.
        SELECT array_agg(p.hash ORDER BY p.number) FILTER (WHERE p.fit), array_agg(p.base ORDER BY p.number) FILTER (WHERE p.fit),
            count(*), max(p.number) INTO hashes, bases, seen, last
        FROM (SELECT c.number, c.hash, COALESCE(d.base, c.before) AS base,
                EXISTS (SELECT FROM gpuagent_store.chunk k WHERE k.hash = c.hash)
                AND NOT EXISTS (SELECT FROM gpuagent_store.chunk_delta o WHERE o.hash = c.hash)
                AND NOT EXISTS (SELECT FROM gpuagent_store.chunk_delta o WHERE o.base = c.hash) AS fit
              FROM gpuagent_store.changed_chunks(work.tensor, work.previous, work.next_chunk, 64) c
              LEFT JOIN LATERAL (SELECT b.base FROM gpuagent_store.chunk_delta b WHERE b.hash = c.before LIMIT 1) d ON true) p;
        SELECT * INTO r FROM gpuagent_store.recode_chunks('delta', COALESCE(hashes, '{}'), COALESCE(bases, '{}'));
        freed := freed + r.freed;
        damaged := damaged + r.damaged;
        -- Of 64 chunks that do not pay the rest will not either.
        IF seen < 64 OR (r.changed = 0 AND cardinality(hashes) > 0) THEN
            last := NULL;
        END IF;
    EXCEPTION WHEN data_corrupted OR undefined_object THEN
        damaged := damaged + 1;
        last := NULL;
    END;
    UPDATE gpuagent_store.compact_tensor q SET next_chunk = last + 1 WHERE q.id = work.id;
END
$$;
COMMENT ON FUNCTION gpuagent_store.compact_versions(bigint, bigint, bigint) IS
    'a part of compaction: chunks of a version as what differs from the version before';

CREATE FUNCTION gpuagent_store.compact_orphans(place bigint, INOUT freed bigint, INOUT damaged bigint, OUT next bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hashes bytea[];
    r record;
BEGIN
    -- A base that one delta names and no tensor has: whole, the delta's chunk takes less than both.
    hashes := ARRAY(
        SELECT o.hash FROM (SELECT d.base, (array_agg(d.hash))[1] AS hash FROM gpuagent_store.chunk_delta d GROUP BY d.base HAVING count(*) = 1) o
        WHERE NOT EXISTS (SELECT FROM gpuagent_store.tensor t WHERE t.root = o.base)
            AND o.base NOT IN (SELECT substr(n.children, 32 * i + 1, 32) FROM gpuagent_store.node n, generate_series(0, octet_length(n.children) / 32 - 1) i)
            AND NOT EXISTS (SELECT FROM gpuagent_store.chunk c WHERE c.hash = o.hash)
        ORDER BY o.hash LIMIT 256);
    SELECT * INTO r FROM gpuagent_store.recode_chunks('whole', gpuagent_store.without_doomed(hashes));
    freed := freed + r.freed;
    damaged := damaged + r.damaged;
    IF cardinality(hashes) = 256 AND r.changed > 0 THEN
        next := place + 1;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.compact_orphans(bigint, bigint, bigint) IS
    'a part of compaction: deltas whose base nothing else needs get rows of their own, so that the base is garbage';

CREATE FUNCTION gpuagent_store.compact_finish(place bigint, INOUT freed bigint, INOUT damaged bigint, OUT next bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source text := gpuagent_store.xid_source();
    hashes bytea[];
    r record;
BEGIN
    IF place = 0 THEN
        -- Chunks that have both, as after two writers of one content: one of them goes.
        INSERT INTO gpuagent_store.compact_pending (hash)
            SELECT DISTINCT d.hash FROM gpuagent_store.chunk_delta d JOIN gpuagent_store.chunk c ON c.hash = d.hash
            ON CONFLICT DO NOTHING;
        DELETE FROM gpuagent_store.compact_pending p
            WHERE NOT EXISTS (SELECT FROM gpuagent_store.chunk_delta d WHERE d.hash = p.hash)
                OR NOT EXISTS (SELECT FROM gpuagent_store.chunk c WHERE c.hash = p.hash);
        UPDATE gpuagent_store.compact_pending p SET below = gpuagent_store.next_xid(), xid_source = source
            WHERE (p.below IS NULL OR p.xid_source <> source) AND p.made_by <> pg_current_xact_id();
    END IF;
    -- Those that ran then have ended; snapshots need not be gone (compact.c).
    hashes := ARRAY(SELECT p.hash FROM gpuagent_store.compact_pending p
        WHERE p.xid_source = source AND p.below <= pg_snapshot_xmin(pg_current_snapshot()) ORDER BY p.hash LIMIT 64);
    SELECT * INTO r FROM gpuagent_store.recode_chunks('check', gpuagent_store.without_doomed(hashes));
    freed := freed + r.freed;
    damaged := damaged + r.damaged;
    IF cardinality(hashes) = 64 AND r.changed > 0 THEN
        next := place + 1;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.compact_finish(bigint, bigint, bigint) IS
    'a part of compaction: chunks that became deltas lose their rows, once nobody can have made them bases meanwhile';

CREATE FUNCTION gpuagent_store.run_compact(job bigint, arguments jsonb, carry jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    phases text[] := '{finish,duplicates,rows,versions,orphans,finish}';
    i bigint := COALESCE((carry ->> 'phase')::bigint, 1);
    place bigint := COALESCE((carry ->> 'place')::bigint, 0);
    freed bigint := COALESCE((carry ->> 'freed')::bigint, 0);
    damaged bigint := COALESCE((carry ->> 'damaged')::bigint, 0);
    waits bigint := COALESCE((carry ->> 'waits')::bigint, 0);
    started timestamptz := clock_timestamp();
    r record;
BEGIN
    PERFORM gpuagent_store.require_compact();
    PERFORM gpuagent_store.lock_store_maintenance();
    PERFORM set_config('gpuagent.compression_level', arguments ->> 'level', true) WHERE arguments ? 'level';
    PERFORM set_config('gpuagent.compression', arguments ->> 'compression', true) WHERE arguments ? 'compression';
    IF carry IS NULL OR place = 0 THEN
        PERFORM gpuagent_store.progress(phases[i]);
    END IF;
    LOOP
        EXECUTE format('SELECT * FROM gpuagent_store.compact_%s($1, $2, $3)', phases[i]) INTO r USING place, freed, damaged;
        freed := r.freed;
        damaged := r.damaged;
        place := r.next;
        EXIT WHEN place IS NULL OR clock_timestamp() > started + interval '0.5 s';
    END LOOP;
    IF place IS NULL THEN
        place := 0;
        -- Chunks that became deltas wait for other transactions, for a while.
        IF i = cardinality(phases) AND job IS NOT NULL AND waits < 100 AND EXISTS (SELECT FROM gpuagent_store.compact_pending) THEN
            PERFORM pg_sleep(0.1);
            waits := waits + 1;
        ELSE
            i := i + 1;
        END IF;
    END IF;
    RETURN jsonb_build_object('phase', i, 'place', place, 'freed', freed, 'damaged', damaged, 'waits', waits)
        || CASE WHEN i > cardinality(phases) THEN '{"done": true}'::jsonb ELSE '{}' END;
END
$$;
COMMENT ON FUNCTION gpuagent_store.run_compact(bigint, jsonb, jsonb) IS 'a part of compact_storage(): see queue_job()';

CREATE FUNCTION gpuagent_store.require_compact() RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF to_regclass('gpuagent_store.compact_pending') IS NULL THEN
        RAISE EXCEPTION 'the tables of this database are of an older version'
            USING ERRCODE = 'undefined_table', HINT = 'Run SELECT gpuagent.setup().';
    END IF;
    IF gpuagent_store.store_subscribed() THEN
        RAISE EXCEPTION 'a store that a subscription fills cannot be compacted'
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'The publisher may store deltas of chunks that would have no row here.',
                HINT = 'Compact the publisher''s store.';
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_compact() IS
    '42P01 with a hint that names setup() when the tables that compaction needs are missing; 55000 where a subscription fills them';

CREATE FUNCTION gpuagent.compact_storage(wait boolean DEFAULT true) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    arguments jsonb := jsonb_build_object('level', current_setting('gpuagent.compression_level'),
        'compression', current_setting('gpuagent.compression'));
    carry jsonb;
BEGIN
    PERFORM gpuagent_store.require_compact();
    IF wait IS FALSE THEN
        RETURN gpuagent_store.queue_job('compact', NULL, arguments);
    END IF;
    PERFORM gpuagent_store.progress_begin('compact_storage');
    LOOP
        carry := gpuagent_store.run_compact(NULL, arguments, carry);
        EXIT WHEN carry ? 'done';
    END LOOP;
    PERFORM gpuagent_store.progress_end();
    IF (carry ->> 'damaged')::bigint > 0 THEN
        RAISE WARNING '% chunks are damaged and were left as they are', carry ->> 'damaged'
            USING HINT = 'gpuagent.verify_integrity(''full'') tells what they belong to.';
    END IF;
    RETURN (carry ->> 'freed')::bigint;
END
$$;
COMMENT ON FUNCTION gpuagent.compact_storage(boolean) IS
    'stores in less room what is there: compresses what was stored raw or at another level, merges duplicates, stores versions as what differs from the one before, gives up bases that nothing else needs. wait: does so in this transaction and returns the bytes freed, negative while whole rows of what became deltas have to stay until the next time; false: returns the job that a worker does it by';

CREATE FUNCTION gpuagent_store.child_span(nbytes bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN $1 <= 1::bigint << 26 THEN 1::bigint << 20 WHEN $1 <= 1::bigint << 32 THEN 1::bigint << 26
        WHEN $1 <= 1::bigint << 38 THEN 1::bigint << 32 WHEN $1 <= 1::bigint << 44 THEN 1::bigint << 38
        WHEN $1 <= 1::bigint << 50 THEN 1::bigint << 44 WHEN $1 <= 1::bigint << 56 THEN 1::bigint << 50
        WHEN $1 <= 1::bigint << 62 THEN 1::bigint << 56 ELSE 1::bigint << 62 END
$$;
COMMENT ON FUNCTION gpuagent_store.child_span(bigint) IS 'raw bytes below each child, but the last, of a node with so many';

CREATE FUNCTION gpuagent_store.sample_below(chunks bigint) RETURNS bytea
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    -- No row of chunk is shorter than 100 bytes.
    SELECT CASE WHEN rows <= $1 THEN decode(repeat('ff', 33), 'hex')
        ELSE decode(lpad(to_hex(greatest(65536 * $1 / rows, 1)), 4, '0'), 'hex') END
    FROM (SELECT (pg_relation_size('gpuagent_store.chunk') + pg_relation_size('gpuagent_store.chunk_delta')) / 100 AS rows) r
$$;
COMMENT ON FUNCTION gpuagent_store.sample_below(bigint) IS
    'a bound below which lie the hashes of about so many chunks, or of all when the store cannot have more';

CREATE FUNCTION gpuagent_store.chunk_usage(below bytea) RETURNS TABLE (kind text, objects bigint, versions bigint, raw_bytes bigint,
    stored_bytes bigint, dedup_bytes bigint, delta_bytes bigint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 6 SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE reference AS MATERIALIZED (
        SELECT s.kind, s.object, t.root, t.nbytes FROM gpuagent_store.stored_versions() s
        JOIN (SELECT DISTINCT ON (u.hash) u.hash, u.root, u.nbytes FROM gpuagent_store.tensor u ORDER BY u.hash) t ON t.hash = s.tensor
    ), wanted AS MATERIALIZED (
        -- Beside the chunks below the bound those that are deltas of such.
        SELECT d.hash, d.base FROM gpuagent_store.chunk_delta d WHERE d.base < $1
    ), walk (kind, hash, nbytes, span) AS (
        SELECT r.kind, r.root, r.nbytes, gpuagent_store.child_span(r.nbytes) FROM reference r
            WHERE r.nbytes > 1048576 OR (r.nbytes > 0 AND (r.root < $1 OR r.root IN (SELECT x.hash FROM wanted x)))
        UNION
        SELECT w.kind, substr(n.children, 32 * i + 1, 32), least(w.span, w.nbytes - i * w.span), w.span >> 6
        FROM walk w JOIN gpuagent_store.node n ON n.hash = w.hash, generate_series(0, octet_length(n.children) / 32 - 1) i
        WHERE w.nbytes > 1048576 AND (least(w.span, w.nbytes - i * w.span) > 1048576 OR substr(n.children, 32 * i + 1, 32) < $1
            OR substr(n.children, 32 * i + 1, 32) IN (SELECT x.hash FROM wanted x))
    ), chunk AS MATERIALIZED (
        SELECT r.hash, max(r.nbytes)::bigint AS nbytes, sum(r.own) + sum(r.delta) AS rows, sum(r.own) AS own,
            sum(r.stored)::bigint AS stored, COALESCE(sum(r.stored) FILTER (WHERE r.delta = 1), 0)::bigint AS delta
        FROM (SELECT c.hash, c.nbytes, octet_length(c.data) AS stored, 1 AS own, 0 AS delta FROM gpuagent_store.chunk c WHERE c.hash < $1
              UNION ALL
              SELECT d.hash, d.nbytes, octet_length(d.data), 0, 1 FROM gpuagent_store.chunk_delta d WHERE d.hash < $1) r
        GROUP BY r.hash
    ), leaf AS MATERIALIZED (
        SELECT w.kind, w.hash, max(w.nbytes) AS nbytes FROM walk w WHERE w.nbytes <= 1048576 GROUP BY w.kind, w.hash
    ), reached AS MATERIALIZED (
        SELECT l.* FROM leaf l WHERE l.hash < $1
    ), base AS MATERIALIZED (
        SELECT DISTINCT x.base AS hash FROM wanted x WHERE x.hash IN (SELECT l.hash FROM leaf l)
    ), used AS (
        SELECT r.kind, sum(r.nbytes)::bigint AS raw, COALESCE(sum(c.stored), 0)::bigint AS stored, COALESCE(sum(c.delta), 0)::bigint AS delta
        FROM reached r LEFT JOIN chunk c USING (hash) GROUP BY r.kind
    ), referenced AS (
        SELECT r.kind, count(DISTINCT r.object) AS objects, count(*) AS versions, sum(r.nbytes)::bigint AS raw FROM reference r GROUP BY r.kind
    ), rest AS (
        SELECT c.*, c.own > 0 AND c.hash IN (SELECT b.hash FROM base b) AS is_base
        FROM chunk c WHERE NOT EXISTS (SELECT FROM reached r WHERE r.hash = c.hash)
    )
    SELECT k.kind, COALESCE(r.objects, 0), COALESCE(r.versions, 0), COALESCE(r.raw, 0), COALESCE(u.stored, 0), COALESCE(u.raw, 0), COALESCE(u.delta, 0)
        FROM (VALUES ('swarms'), ('weights'), ('checkpoints')) k (kind) LEFT JOIN referenced r USING (kind) LEFT JOIN used u USING (kind)
    UNION ALL
    SELECT 'bases', count(*), COALESCE(sum(c.rows), 0)::bigint, COALESCE(sum(c.nbytes), 0)::bigint, COALESCE(sum(c.stored), 0)::bigint, 0, COALESCE(sum(c.delta), 0)::bigint
        FROM rest c WHERE c.is_base
    UNION ALL
    SELECT 'garbage', count(*), COALESCE(sum(c.rows), 0)::bigint, COALESCE(sum(c.nbytes), 0)::bigint, COALESCE(sum(c.stored), 0)::bigint, 0, COALESCE(sum(c.delta), 0)::bigint
        FROM rest c WHERE NOT c.is_base
    UNION ALL
    SELECT 'store', count(*), COALESCE(sum(c.rows), 0)::bigint, COALESCE(sum(c.nbytes), 0)::bigint, COALESCE(sum(c.stored), 0)::bigint,
        (SELECT COALESCE(sum(q.nbytes), 0)::bigint FROM (SELECT DISTINCT w.hash, w.nbytes FROM reached w) q), COALESCE(sum(c.delta), 0)::bigint
        FROM chunk c
$$;
COMMENT ON FUNCTION gpuagent_store.chunk_usage(bytea) IS
    'what storage_stats() adds up, of the chunks whose hash is below the bound: their bytes, and in dedup_bytes the raw ones of the distinct chunks; objects, versions and raw_bytes of swarms, weights and checkpoints are of all';

CREATE FUNCTION gpuagent_store.table_size(name regclass) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE((SELECT sum(pg_total_relation_size(p.relid)) FROM pg_partition_tree($1) p), pg_total_relation_size($1))::bigint
$$;
COMMENT ON FUNCTION gpuagent_store.table_size(regclass) IS 'bytes of a table on disk, with indexes, TOAST and partitions';

CREATE FUNCTION gpuagent.storage_stats() RETURNS TABLE (kind text, objects bigint, versions bigint, raw_bytes bigint,
    stored_bytes bigint, dedup_bytes bigint, delta_bytes bigint, ratio double precision, stored_pretty text)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 8 SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
    below bytea;
    scale double precision := 1;
    agents double precision;
    nodes double precision;
BEGIN
    PERFORM gpuagent_store.require_setup();
    below := gpuagent_store.sample_below(65536);
    IF octet_length(below) = 2 THEN
        scale := 65536.0 / (get_byte(below, 0) * 256 + get_byte(below, 1));
    END IF;
    -- 128 MB of a table are looked at whole, of more a sample of its pages.
    agents := least(100, 100 * 134217728.0 / NULLIF(gpuagent_store.table_size('gpuagent.agent'), 0));
    nodes := least(100, 100 * 134217728.0 / NULLIF(gpuagent_store.table_size('gpuagent.graph_node'), 0));
    RETURN QUERY
    WITH usage AS MATERIALIZED (
        SELECT u.kind, u.objects, u.versions, u.raw_bytes, u.stored_bytes, u.dedup_bytes, u.delta_bytes,
            u.kind IN ('swarms', 'weights', 'checkpoints') AS refers FROM gpuagent_store.chunk_usage(below) u
    ), line (ord, kind, objects, versions, raw, stored, dedup, delta) AS (
        SELECT 1, 'agents', (count(*) * 100 / agents)::bigint, (count(*) * 100 / agents)::bigint,
            ((COALESCE(sum(gpuagent.nbytes(a.state)), 0) + COALESCE(sum(gpuagent.nbytes(a.memory)), 0))::double precision * 100 / agents)::bigint,
            gpuagent_store.table_size('gpuagent.agent'), 0::bigint, 0::bigint FROM gpuagent.agent a TABLESAMPLE SYSTEM (agents)
        UNION ALL SELECT 2, 'graphs', (SELECT count(*) FROM gpuagent.graph), (count(*) * 100 / nodes)::bigint,
            (COALESCE(sum(gpuagent.nbytes(n.embedding)), 0)::double precision * 100 / nodes)::bigint,
            gpuagent_store.table_size('gpuagent.graph') + gpuagent_store.table_size('gpuagent.graph_node')
                + gpuagent_store.table_size('gpuagent.graph_edge'), 0, 0
            FROM gpuagent.graph_node n TABLESAMPLE SYSTEM (nodes)
        UNION ALL SELECT array_position('{swarms,weights,checkpoints,bases,garbage,store}', u.kind) + 2, u.kind,
            CASE WHEN u.refers THEN u.objects ELSE (u.objects * scale)::bigint END,
            CASE WHEN u.refers THEN u.versions ELSE (u.versions * scale)::bigint END,
            CASE WHEN u.refers THEN u.raw_bytes ELSE (u.raw_bytes * scale)::bigint END,
            (u.stored_bytes * scale)::bigint,
            CASE WHEN u.refers THEN greatest(u.raw_bytes - (u.dedup_bytes * scale)::bigint, 0)
                WHEN u.kind = 'store' THEN greatest((SELECT sum(r.raw_bytes) FROM usage r WHERE r.refers)::bigint - (u.dedup_bytes * scale)::bigint, 0)
                ELSE 0 END,
            (u.delta_bytes * scale)::bigint
            FROM usage u
    )
    SELECT l.kind, l.objects, l.versions, l.raw, l.stored, l.dedup, l.delta, l.stored::double precision / NULLIF(l.raw, 0), pg_size_pretty(l.stored)
    FROM line l ORDER BY l.ord;
END
$$;
COMMENT ON FUNCTION gpuagent.storage_stats() IS
    'bytes by kind: raw_bytes as referenced, stored_bytes as stored, dedup_bytes saved by sharing, delta_bytes: the part of stored_bytes that holds differences between versions; ratio = stored_bytes / raw_bytes. Exact below some 65,000 chunks, else estimated from as many (doc/reference.md)';

CREATE VIEW gpuagent.stat_storage AS SELECT * FROM gpuagent.storage_stats();
COMMENT ON VIEW gpuagent.stat_storage IS 'storage_stats() as a view';
