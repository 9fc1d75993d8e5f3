-- GARBAGE COLLECTION. The protocol and its proof are at the top of src/store/collect.c.
CREATE FUNCTION gpuagent_store.collection_horizon() RETURNS xid8
    AS 'MODULE_PATHNAME', 'ga_collection_horizon' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.collection_horizon() IS
    'the oldest transaction id that runs in this database or that a snapshot on it, on a standby with feedback too, takes for running';

CREATE FUNCTION gpuagent_store.horizon_passed(xid xid8) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_horizon_passed' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.horizon_passed(xid8) IS
    'true when all transactions with an id below it have ended, and all snapshots are gone that take one of them for running; look again in a later statement for what they did';

CREATE FUNCTION gpuagent_store.next_xid() RETURNS xid8
    AS 'MODULE_PATHNAME', 'ga_next_xid' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.next_xid() IS 'the next transaction id that will be given out';

CREATE FUNCTION gpuagent_store.lock_store_maintenance(wait boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    RETURN gpuagent_store.take_lock(hashtextextended('gpuagent.store_maintenance', 0), wait IS NOT FALSE, false);
END
$$;
COMMENT ON FUNCTION gpuagent_store.lock_store_maintenance(boolean) IS
    'held to the end of the transaction by whoever deletes rows of the store, so that it runs alone; wait false: only if nobody holds it; true when held';

CREATE FUNCTION gpuagent_store.doom_pending() RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_doom_pending_sql' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.doom_pending() IS
    'false when nothing is doomed, nor will be before this transaction has ended: then keep_tensor() has nothing to do';

CREATE FUNCTION gpuagent_store.keep_items(checkpoint bigint, kinds text[], names text[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF gpuagent_store.doom_pending() THEN
        PERFORM gpuagent_store.keep_tensor(t.hash)
        FROM (SELECT DISTINCT u.hash
              FROM gpuagent.checkpoint_item i CROSS JOIN LATERAL unnest(ARRAY[i.tensor, i.biases]) u (hash)
              WHERE i.from_seq <= keep_items.checkpoint AND (i.to_seq IS NULL OR keep_items.checkpoint < i.to_seq)
                AND (split_part(i.object, ':', 1) = ANY (kinds) OR i.object = ANY (names)) AND u.hash IS NOT NULL OFFSET 0) t;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.keep_items(bigint, text[], text[]) IS
    'for whoever will refer to the tensors of a checkpoint within a scope: see keep_tensor()';

-- ROWS says less than there are: see doom_garbage().
CREATE FUNCTION gpuagent_store.child_hashes(children bytea) RETURNS SETOF bytea
    AS 'MODULE_PATHNAME', 'ga_child_hashes' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 1;
COMMENT ON FUNCTION gpuagent_store.child_hashes(bytea) IS 'the hashes that a row of node packs';

-- Whatever keeps a tensor: a column that is not here refers to what may be deleted.
CREATE FUNCTION gpuagent_store.tensor_references() RETURNS TABLE (relation regclass, column_name text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
VALUES
    ('gpuagent.swarm_version'::regclass, 'tensor'),
    ('gpuagent.weight_version', 'weights'),
    ('gpuagent.weight_version', 'biases'),
    ('gpuagent.checkpoint_item', 'tensor'),
    ('gpuagent.checkpoint_item', 'biases')
$$;
COMMENT ON FUNCTION gpuagent_store.tensor_references() IS 'columns that hold hashes of tensors of the store';

CREATE FUNCTION gpuagent_store.reference_query() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('SELECT q.%I AS hash FROM %s q WHERE q.%1$I IS NOT NULL', r.column_name, r.relation), ' UNION ALL ')
        || ' UNION ALL SELECT u.hash FROM gpuagent_store.upload u'
    FROM gpuagent_store.tensor_references() r
$$;
COMMENT ON FUNCTION gpuagent_store.reference_query() IS 'query for the hashes that are referred to from outside the store';

-- Rows that a subscription brings are written by those who looked where they ran at what is doomed, or is a delta already:
-- what the publisher deletes, and nothing else, may go here.
CREATE FUNCTION gpuagent_store.store_subscribed() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_subscription_rel s
        WHERE s.srrelid IN (SELECT r.relation FROM gpuagent_store.tensor_references() r
            UNION ALL SELECT unnest('{gpuagent_store.tensor,gpuagent_store.node,gpuagent_store.chunk,gpuagent_store.chunk_delta}'::regclass[])))
$$;
COMMENT ON FUNCTION gpuagent_store.store_subscribed() IS 'whether a subscription brings rows of the store, or of what refers to it';

-- pg_restore makes primary keys after all data.
CREATE FUNCTION gpuagent_store.tables_complete() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (
            SELECT FROM gpuagent_store.tensor_references() r
            WHERE NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = r.relation AND i.indisprimary AND i.indisvalid))
        AND EXISTS (SELECT FROM gpuagent_store.setup_step s WHERE s.step = 4)
        AND NOT gpuagent_store.store_subscribed()
$$;
COMMENT ON FUNCTION gpuagent_store.tables_complete() IS
    'false while pg_restore or a subscription fills the tables: what refers to the store may not be there yet';

-- Rows become garbage when what refers to them is updated, deleted or truncated, or when nothing ever refers to them.
CREATE FUNCTION gpuagent_store.collection_counters() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
    WITH counted (oid, inserted) AS (
        SELECT r.relation, false FROM gpuagent_store.tensor_references() r
        UNION SELECT t, true FROM unnest('{gpuagent_store.tensor,gpuagent_store.node,gpuagent_store.chunk,
            gpuagent_store.chunk_delta,gpuagent_store.upload}'::regclass[]) t
    ), part (oid, inserted) AS (
        SELECT c.oid, c.inserted FROM counted c
        UNION SELECT p.relid, c.inserted FROM counted c CROSS JOIN LATERAL pg_partition_tree(c.oid) p
    )
    SELECT string_agg(concat_ws(',', p.oid::oid, pg_relation_filenode(p.oid), CASE
            WHEN p.inserted THEN pg_stat_get_tuples_inserted(p.oid)
            ELSE pg_stat_get_tuples_updated(p.oid) + pg_stat_get_tuples_deleted(p.oid) END), ';' ORDER BY p.oid::oid)
    FROM part p
$$;
COMMENT ON FUNCTION gpuagent_store.collection_counters() IS 'what must have changed when there is new garbage, as the statistics count it';

CREATE FUNCTION gpuagent_store.collect_grace() RETURNS interval
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT make_interval(secs => extract(epoch FROM current_setting('gpuagent.collect_grace')::interval))
$$;
COMMENT ON FUNCTION gpuagent_store.collect_grace() IS 'the setting gpuagent.collect_grace';

CREATE FUNCTION gpuagent_store.young_since() RETURNS xid8
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    grace CONSTANT interval := gpuagent_store.collect_grace();
    oldest CONSTANT xid8 := gpuagent_store.collection_horizon();
    result xid8;
BEGIN
    DELETE FROM gpuagent_store.collect_time t WHERE t.xid_source <> gpuagent_store.xid_source()
        OR t.at < (SELECT max(o.at) FROM gpuagent_store.collect_time o WHERE o.at <= clock_timestamp() - grace);
    INSERT INTO gpuagent_store.collect_time (oldest, xid_source) VALUES (oldest, gpuagent_store.xid_source());
    SELECT max(t.oldest) INTO result FROM gpuagent_store.collect_time t
        WHERE t.at <= clock_timestamp() - grace AND t.xid_source = gpuagent_store.xid_source();
    RETURN coalesce(result, '0');
END
$$;
COMMENT ON FUNCTION gpuagent_store.young_since() IS
    'rows of transactions below it were committed gpuagent.collect_grace ago, as far as is known: 0 when nothing is';

CREATE FUNCTION gpuagent_store.doom_garbage(young xid8) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off SET jit = off SET row_security = off AS $fn$
DECLARE
    this bigint;
    n bigint;
BEGIN
    INSERT INTO gpuagent_store.doom (xid_source) VALUES (gpuagent_store.xid_source()) RETURNING batch INTO this;
    -- Top down, for the limit: what refers to a row goes with it or before it. DISTINCT is for the planner, who has no
    -- statistics of these and takes them for small: a hash join that grows is cheap, one that begins with a million batches is not.
    EXECUTE $q$
        WITH RECURSIVE reference (hash) AS MATERIALIZED (
            SELECT DISTINCT r.hash FROM ($q$ || gpuagent_store.reference_query() || $q$) r
        ), live_tensor (hash, root) AS MATERIALIZED (
            SELECT t.hash, t.root FROM gpuagent_store.tensor t JOIN reference r ON r.hash = t.hash
            UNION ALL
            SELECT t.hash, t.root FROM gpuagent_store.tensor t WHERE gpuagent_store.changed_since(t.xmin, $1)
        ), reached (hash) AS (
            (SELECT DISTINCT n.hash FROM gpuagent_store.node n
                JOIN (SELECT l.root FROM live_tensor l UNION SELECT r.hash FROM reference r) s (hash) ON s.hash = n.hash
            UNION ALL
            SELECT n.hash FROM gpuagent_store.node n WHERE gpuagent_store.changed_since(n.xmin, $1))
            UNION
            SELECT m.hash
            FROM (SELECT gpuagent_store.child_hashes(n.children) AS hash
                  FROM reached l JOIN gpuagent_store.node n ON n.hash = l.hash) c
                JOIN gpuagent_store.node m ON m.hash = c.hash
        ), live_node (hash) AS MATERIALIZED (
            SELECT DISTINCT r.hash FROM reached r
        ), live_chunk (hash) AS MATERIALIZED (
            SELECT DISTINCT u.hash FROM (
                SELECT l.root AS hash FROM live_tensor l
                UNION ALL SELECT r.hash FROM reference r
                UNION ALL SELECT gpuagent_store.child_hashes(n.children) FROM live_node l JOIN gpuagent_store.node n ON n.hash = l.hash
                UNION ALL SELECT c.hash FROM gpuagent_store.chunk c WHERE gpuagent_store.changed_since(c.xmin, $1)
                UNION ALL SELECT d.hash FROM gpuagent_store.chunk_delta d WHERE gpuagent_store.changed_since(d.xmin, $1)) u
        ), base (hash) AS MATERIALIZED (
            SELECT DISTINCT d.base FROM gpuagent_store.chunk_delta d WHERE EXISTS (SELECT FROM live_chunk l WHERE l.hash = d.hash)
        )
        INSERT INTO gpuagent_store.doomed (hash, kind, batch)
        SELECT g.hash, g.kind, $2 FROM (
            SELECT t.hash, 'tensor' AS kind FROM gpuagent_store.tensor t
                WHERE NOT EXISTS (SELECT FROM live_tensor l WHERE l.hash = t.hash)
                AND NOT EXISTS (SELECT FROM reference r WHERE r.hash = t.hash)
            UNION ALL
            SELECT n.hash, 'node' FROM gpuagent_store.node n WHERE NOT EXISTS (SELECT FROM live_node l WHERE l.hash = n.hash)
            UNION ALL
            SELECT c.hash, 'chunk' FROM gpuagent_store.chunk c
                WHERE NOT EXISTS (SELECT FROM live_chunk l WHERE l.hash = c.hash)
                AND NOT EXISTS (SELECT FROM base b WHERE b.hash = c.hash)
            UNION ALL
            SELECT d.hash, 'chunk' FROM gpuagent_store.chunk_delta d
                WHERE NOT EXISTS (SELECT FROM live_chunk l WHERE l.hash = d.hash)
                AND NOT EXISTS (SELECT FROM base b WHERE b.hash = d.hash)
            LIMIT 1000000) g
        ON CONFLICT (hash) DO NOTHING$q$ USING young, this;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n = 0 THEN
        DELETE FROM gpuagent_store.doom d WHERE d.batch = this;
    END IF;
    RETURN n;
END
$fn$;
COMMENT ON FUNCTION gpuagent_store.doom_garbage(xid8) IS
    'dooms what can be reached neither from a reference nor from a row of a transaction at or after young; returns how many hashes';

CREATE FUNCTION gpuagent_store.spare_doomed(batches bigint[], young xid8) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off SET jit = off SET row_security = off AS $fn$
DECLARE
    n bigint;
BEGIN
    -- Not only references count, but whatever is in rows that stay: another may already refer to them.
    EXECUTE $q$
        WITH RECURSIVE z (hash, below) AS MATERIALIZED (
            SELECT d.hash, least(b.below, $2) FROM gpuagent_store.doomed d JOIN gpuagent_store.doom b ON b.batch = d.batch
            WHERE b.batch = ANY ($1)
        ), staying (hash) AS MATERIALIZED (SELECT DISTINCT u.hash FROM (
            $q$ || gpuagent_store.reference_query() || $q$
            UNION ALL
            SELECT t.root FROM gpuagent_store.tensor t LEFT JOIN z ON z.hash = t.hash
                WHERE z.hash IS NULL OR gpuagent_store.changed_since(t.xmin, z.below)
            UNION ALL
            SELECT gpuagent_store.child_hashes(n.children) FROM gpuagent_store.node n LEFT JOIN z ON z.hash = n.hash
                WHERE z.hash IS NULL OR gpuagent_store.changed_since(n.xmin, z.below)
            UNION ALL
            SELECT d.base FROM gpuagent_store.chunk_delta d LEFT JOIN z ON z.hash = d.hash
                WHERE z.hash IS NULL OR gpuagent_store.changed_since(d.xmin, z.below)) u
        ), spared (hash) AS (
            SELECT z.hash FROM z WHERE z.hash IN (SELECT s.hash FROM staying s)
            UNION
            SELECT z.hash FROM spared s CROSS JOIN LATERAL (
                SELECT t.root FROM gpuagent_store.tensor t WHERE t.hash = s.hash
                UNION ALL SELECT gpuagent_store.child_hashes(n.children) FROM gpuagent_store.node n WHERE n.hash = s.hash
                UNION ALL SELECT d.base FROM gpuagent_store.chunk_delta d WHERE d.hash = s.hash) c (hash)
                JOIN z ON z.hash = c.hash
        )
        DELETE FROM gpuagent_store.doomed d USING spared s WHERE d.hash = s.hash$q$ USING batches, young;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$fn$;
COMMENT ON FUNCTION gpuagent_store.spare_doomed(bigint[], xid8) IS
    'takes what is referred to, or is below what stays, off the doomed of these batches; returns how many hashes';

CREATE FUNCTION gpuagent_store.delete_condemned(most bigint, OUT deleted bigint, OUT freed_bytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET row_security = off SET jit = off AS $$
DECLARE
    next_batch bigint;
    below xid8;
    kinds text;
    hashes bytea[];
    rows bigint;
    bytes bigint;
BEGIN
    deleted := 0;
    freed_bytes := 0;
    -- What is above goes first, so that no row is there whose parts are not.
    SELECT d.kind, d.batch, b.below INTO kinds, next_batch, below
        FROM gpuagent_store.doom b
            CROSS JOIN LATERAL (SELECT x.kind, x.batch FROM gpuagent_store.doomed x WHERE x.batch = b.batch
                                ORDER BY x.kind = 'chunk', x.kind = 'node' LIMIT 1) d
        WHERE b.phase = 'condemned' ORDER BY d.kind = 'chunk', d.kind = 'node', d.batch LIMIT 1;
    IF NOT FOUND THEN
        DELETE FROM gpuagent_store.doom b WHERE b.phase = 'condemned';
        RETURN;
    END IF;
    -- Small ones take little each.
    hashes := ARRAY(SELECT d.hash FROM gpuagent_store.doomed d WHERE d.batch = next_batch AND d.kind = kinds
                    LIMIT CASE kinds WHEN 'chunk' THEN most ELSE 16 * most END);
    IF kinds = 'tensor' THEN
        DELETE FROM gpuagent_store.tensor t WHERE t.hash = ANY (hashes) AND NOT gpuagent_store.changed_since(t.xmin, below);
        GET DIAGNOSTICS deleted = ROW_COUNT;
    ELSIF kinds = 'node' THEN
        WITH gone AS (
            DELETE FROM gpuagent_store.node n WHERE n.hash = ANY (hashes) AND NOT gpuagent_store.changed_since(n.xmin, below)
            RETURNING octet_length(n.children) AS nbytes)
        SELECT count(*), coalesce(sum(g.nbytes), 0) INTO deleted, freed_bytes FROM gone g;
    ELSE
        WITH gone AS (
            DELETE FROM gpuagent_store.chunk_delta c WHERE c.hash = ANY (hashes) AND NOT gpuagent_store.changed_since(c.xmin, below)
            RETURNING octet_length(c.data) AS nbytes)
        SELECT count(*), coalesce(sum(g.nbytes), 0) INTO deleted, freed_bytes FROM gone g;
        WITH gone AS (
            DELETE FROM gpuagent_store.chunk c WHERE c.hash = ANY (hashes) AND NOT gpuagent_store.changed_since(c.xmin, below)
            RETURNING octet_length(c.data) AS nbytes)
        SELECT count(*), coalesce(sum(g.nbytes), 0) INTO rows, bytes FROM gone g;
        deleted := deleted + rows;
        freed_bytes := freed_bytes + bytes;
    END IF;
    DELETE FROM gpuagent_store.doomed d WHERE d.hash = ANY (hashes);
    IF NOT EXISTS (SELECT FROM gpuagent_store.doomed d WHERE d.batch = next_batch) THEN
        DELETE FROM gpuagent_store.doom b WHERE b.batch = next_batch;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.delete_condemned(bigint) IS
    'deletes the rows of at most so many condemned chunks, or of more tensors or nodes, that are older than their doom';

CREATE FUNCTION gpuagent_store.collect_step(force boolean, OUT phase text, OUT doomed bigint, OUT deleted bigint, OUT freed_bytes bigint, OUT spared bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Anything seen here is of a transaction that has ended, or of this one.
    source CONSTANT text := gpuagent_store.xid_source();
    state record;
    ready bigint[];
    young xid8;
    began timestamptz;
    counters text;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'garbage collection needs READ COMMITTED'
            USING ERRCODE = 'invalid_transaction_state', DETAIL = 'It must see what others have committed a moment ago.';
    END IF;
    doomed := 0;
    deleted := 0;
    freed_bytes := 0;
    spared := 0;
    IF NOT gpuagent_store.lock_store_maintenance(false) THEN
        phase := 'busy';
        RETURN;
    END IF;
    IF to_regclass('gpuagent_store.collection') IS NULL AND force THEN
        RAISE EXCEPTION 'the tables of garbage collection do not exist in this database'
            USING ERRCODE = 'undefined_table', HINT = 'Run SELECT gpuagent.setup().';
    END IF;
    IF to_regclass('gpuagent_store.collection') IS NULL OR NOT gpuagent_store.tables_complete() THEN
        phase := 'incomplete';
        RETURN;
    END IF;
    INSERT INTO gpuagent_store.collection DEFAULT VALUES ON CONFLICT DO NOTHING;

    UPDATE gpuagent_store.doom d
        SET phase = 'doomed', made_by = pg_current_xact_id(), xid_source = source, below = NULL, again = NULL
        WHERE d.xid_source <> source;
    UPDATE gpuagent_store.doom d SET below = gpuagent_store.next_xid()
        WHERE d.below IS NULL AND d.made_by <> pg_current_xact_id();

    IF EXISTS (SELECT FROM gpuagent_store.doom d WHERE d.phase = 'condemned') THEN
        SELECT c.deleted, c.freed_bytes INTO deleted, freed_bytes FROM gpuagent_store.delete_condemned(256) c;
        UPDATE gpuagent_store.collection c
            SET deleted_rows = c.deleted_rows + deleted, deleted_bytes = c.deleted_bytes + freed_bytes;
        phase := 'deleting';
        RETURN;
    END IF;

    -- First whether all have ended; what they left is looked for in later statements.
    ready := ARRAY(SELECT d.batch FROM gpuagent_store.doom d
                   WHERE gpuagent_store.horizon_passed(CASE d.phase WHEN 'doomed' THEN d.below ELSE d.again END));
    SELECT * INTO state FROM gpuagent_store.collection c;
    counters := gpuagent_store.collection_counters();
    IF NOT force AND (state.marked_at + make_interval(secs => 20 * state.mark_ms / 1000) > clock_timestamp()
            OR (counters = state.seen AND current_setting('track_counts')::boolean
                AND coalesce(state.look_again, 'infinity') > clock_timestamp())) THEN
        counters := NULL;
    END IF;
    IF ready <> '{}' OR counters IS NOT NULL THEN
        young := gpuagent_store.young_since();
    END IF;
    IF ready <> '{}' THEN
        spared := gpuagent_store.spare_doomed(ready, young);
        UPDATE gpuagent_store.doom d SET phase = 'condemned', below = least(d.below, young)
            WHERE d.batch = ANY (ready) AND d.phase = 'checked';
        UPDATE gpuagent_store.doom d SET phase = 'checked', again = gpuagent_store.next_xid()
            WHERE d.batch = ANY (ready) AND d.phase = 'doomed';
    END IF;
    IF counters IS NOT NULL THEN
        began := clock_timestamp();
        DELETE FROM gpuagent_store.upload u WHERE u.at <= began - gpuagent_store.collect_grace();
        doomed := gpuagent_store.doom_garbage(young);
        UPDATE gpuagent_store.collection c
            SET marked_at = began, seen = counters, marks = c.marks + 1,
                mark_ms = extract(epoch FROM clock_timestamp() - began) * 1000,
                look_again = CASE WHEN gpuagent_store.has_young(young) THEN began + gpuagent_store.collect_grace() END;
    END IF;
    UPDATE gpuagent_store.collection c SET spared = c.spared + collect_step.spared WHERE collect_step.spared > 0;
    phase := CASE
        WHEN EXISTS (SELECT FROM gpuagent_store.doom d WHERE d.phase = 'condemned') THEN 'deleting'
        WHEN doomed > 0 THEN 'marked'
        WHEN EXISTS (SELECT FROM gpuagent_store.doom d) THEN 'waiting'
        ELSE 'idle' END;
END
$$;
COMMENT ON FUNCTION gpuagent_store.collect_step(boolean) IS 'implementation of collect_garbage(); force: looks for garbage even where nothing has changed';

CREATE FUNCTION gpuagent_store.has_young(young xid8) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM gpuagent_store.upload)
        OR EXISTS (SELECT FROM gpuagent_store.tensor t WHERE gpuagent_store.changed_since(t.xmin, young))
        OR EXISTS (SELECT FROM gpuagent_store.node n WHERE gpuagent_store.changed_since(n.xmin, young))
        OR EXISTS (SELECT FROM gpuagent_store.chunk c WHERE gpuagent_store.changed_since(c.xmin, young))
        OR EXISTS (SELECT FROM gpuagent_store.chunk_delta d WHERE gpuagent_store.changed_since(d.xmin, young))
$$;
COMMENT ON FUNCTION gpuagent_store.has_young(xid8) IS 'whether there are rows that may become garbage by age alone';

CREATE FUNCTION gpuagent.collect_garbage(OUT phase text, OUT doomed bigint, OUT deleted bigint, OUT freed_bytes bigint, OUT spared bigint)
    AS 'MODULE_PATHNAME', 'ga_collect_garbage' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.collect_garbage() IS
    'one step of removing chunks, nodes and tensors that nothing refers to; each call in a transaction of its own, until phase is idle. phase: marked (found some), waiting (for older transactions to end), deleting (call again), idle, busy (somebody else does it), incomplete (tables are being restored); numbers are those of this step';

CREATE FUNCTION gpuagent_store.collect() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_collect' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.collect() IS 'collect_garbage() for the maintenance worker: rests while nothing has changed';

CREATE FUNCTION gpuagent_store.collection_stats() RETURNS TABLE (phase text, doomed bigint, waiting_for xid8, waiting_for_pids integer[],
    oldest_doom timestamptz, marked_at timestamptz, mark_ms double precision, marks bigint, deleted_rows bigint, deleted_bytes bigint, spared bigint)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    behind numeric;
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF to_regclass('gpuagent_store.collection') IS NULL THEN
        RETURN;
    END IF;
    SELECT CASE WHEN bool_or(d.phase = 'condemned') THEN 'deleting' WHEN count(*) > 0 THEN 'waiting' ELSE 'idle' END,
            min(CASE d.phase WHEN 'doomed' THEN d.below WHEN 'checked' THEN d.again END), min(d.doomed_at)
        INTO collection_stats.phase, collection_stats.waiting_for, collection_stats.oldest_doom FROM gpuagent_store.doom d;
    SELECT count(*) INTO collection_stats.doomed FROM gpuagent_store.doomed;
    behind := pg_snapshot_xmax(pg_current_snapshot())::text::numeric - collection_stats.waiting_for::text::numeric;
    waiting_for_pids := ARRAY(SELECT a.pid FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND greatest(age(a.backend_xid), age(a.backend_xmin)) > behind
        ORDER BY a.pid);
    SELECT c.marked_at, c.mark_ms, c.marks, c.deleted_rows, c.deleted_bytes, c.spared
        INTO collection_stats.marked_at, collection_stats.mark_ms, collection_stats.marks, collection_stats.deleted_rows,
            collection_stats.deleted_bytes, collection_stats.spared FROM gpuagent_store.collection c;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION gpuagent_store.collection_stats() IS 'implementation of stat_collection';

CREATE VIEW gpuagent.stat_collection AS SELECT * FROM gpuagent_store.collection_stats();
COMMENT ON VIEW gpuagent.stat_collection IS
    'where garbage collection stands: what is doomed, the transaction id that must be passed and sessions that hold it back, what was done so far';
