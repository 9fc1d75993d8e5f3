
-- HEALTH OF PEERS: each node beats into a row of gpuagent_store.heartbeat, which is replicated like facts, in order with them
CREATE FUNCTION gpuagent_store.take_beat() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE gpuagent_store.heartbeat h SET n = NEW.n, sent_at = NEW.sent_at, acks = NEW.acks WHERE h.node = NEW.node;
        IF FOUND OR EXISTS (SELECT FROM gpuagent_store.heartbeat h WHERE h.node = NEW.node) THEN
            RETURN NULL;
        END IF;
    -- One that was put back to an older state counts anew; here it stays known how far it had come.
    ELSIF NEW.n <= OLD.n THEN
        RETURN NULL;
    END IF;
    NEW.received_at := clock_timestamp();
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION gpuagent_store.take_beat() IS 'trigger of heartbeat in the workers of logical replication: takes in what is newer, and when that was';

CREATE FUNCTION gpuagent_store.node_problem(OUT problem text, OUT confirmed boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    site record;
    seen record;
BEGIN
    SELECT s.origin, s.files, s.problem, CASE WHEN s.doubted_files = gpuagent_store.files_identity() THEN s.doubted_at END AS doubted_at
        INTO site FROM gpuagent_store.site s
        WHERE gpuagent_store.is_this_node(s.system_identifier, s.database);
    confirmed := site.files = gpuagent_store.files_identity();
    SELECT bool_or(a.n > mine.n OR a.seq > mine.seq) AS newer,
        bool_and(COALESCE(h.received_at > site.doubted_at AND h.received_at > pg_postmaster_start_time(), false)) AS heard,
        -- A beat of ours came there at `there`, so the peer's clock was at most that when ours was at sent_at.
        percentile_disc(0.5) WITHIN GROUP (ORDER BY a.sent_at - a.there) FILTER (WHERE greatest(now() - h.received_at, now() - a.sent_at, a.sent_at - now())
            < current_setting('gpuagent.peer_timeout')::interval) AS ahead INTO seen
        FROM gpuagent.peer p LEFT JOIN gpuagent_store.heartbeat h ON h.node = p.origin
            CROSS JOIN LATERAL (SELECT (k ->> 'n')::bigint AS n, (k ->> 'seq')::bigint AS seq, (k ->> 'sent_at')::timestamptz AS sent_at,
                (k ->> 'received_at')::timestamptz AS there FROM (VALUES (h.acks -> site.origin::text)) v(k)) a
            CROSS JOIN (SELECT COALESCE((SELECT b.n FROM gpuagent_store.heartbeat b WHERE b.node = site.origin), 0) AS n,
                greatest((SELECT max(c.seq) FROM gpuagent_store.change c WHERE c.origin = site.origin),
                    (SELECT t.last_seq FROM gpuagent_store.stability t), 0) AS seq) mine;
    IF seen.newer OR site.problem = 'old' THEN
        problem := 'old';
        confirmed := false;
    ELSIF NOT confirmed AND seen.heard IS NOT TRUE THEN
        problem := 'copy';
    ELSE
        confirmed := true;
        IF current_setting('gpuagent.max_clock_offset') <> '0'
            AND COALESCE(seen.ahead > current_setting('gpuagent.max_clock_offset')::interval, site.problem = 'clock') THEN
            problem := 'clock';
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.node_problem() IS 'why this node may write nothing, by what its peers have said; confirmed: it lives in these files';

CREATE FUNCTION gpuagent_store.acknowledgements() RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(jsonb_object_agg(p.origin, jsonb_build_object('seq', (SELECT max(c.seq) FROM gpuagent_store.change c WHERE c.origin = p.origin))
        -- While a table is copied, its rows do not come in order with the beats.
        || CASE WHEN b.node IS NULL OR EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srsubid = u.oid AND r.srsubstate <> 'r') THEN '{}'
           ELSE jsonb_build_object('n', b.n, 'sent_at', b.sent_at, 'received_at', b.received_at) END), '{}')
    FROM gpuagent.peer p JOIN pg_subscription u ON u.subname = p.subscription
        JOIN pg_database d ON d.oid = u.subdbid AND d.datname = current_database()
        LEFT JOIN gpuagent_store.heartbeat b ON b.node = p.origin
$$;
COMMENT ON FUNCTION gpuagent_store.acknowledgements() IS 'what has come from each peer';

-- Members are this node and its peers. What a beat's transaction sees comes before that beat, and what is here of a peer, before the
-- one that comes next. So when all have those beats of all others, they have what is here now.
CREATE FUNCTION gpuagent_store.advance_stability(me uuid) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    members jsonb;
    had record;
    proven boolean;
BEGIN
    SELECT jsonb_object_agg(m.node, m.n) INTO members FROM (
        SELECT p.origin AS node, COALESCE(h.n, 0) + 1 AS n FROM gpuagent.peer p LEFT JOIN gpuagent_store.heartbeat h ON h.node = p.origin
        UNION ALL SELECT h.node, h.n FROM gpuagent_store.heartbeat h WHERE h.node = me) m;
    SELECT s.candidate, s.beats INTO had FROM gpuagent_store.stability s;
    IF FOUND AND ARRAY(SELECT k FROM jsonb_object_keys(had.beats) k ORDER BY k) = ARRAY(SELECT k FROM jsonb_object_keys(members) k ORDER BY k) THEN
        proven := NOT EXISTS (
                SELECT FROM gpuagent.peer p LEFT JOIN gpuagent_store.heartbeat h ON h.node = p.origin CROSS JOIN jsonb_each_text(had.beats) b(node, n)
                WHERE b.node <> p.origin::text AND COALESCE((h.acks #>> ARRAY[b.node, 'n'])::bigint, -1) < b.n::bigint)
            -- Of those that subscribe to this node without being its peers nothing is known.
            AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.database = current_database()
                AND s.slot_name LIKE 'gpuagent\_%\_' || left(replace(me::text, '-', ''), 20)
                AND NOT EXISTS (SELECT FROM gpuagent.peer p WHERE s.slot_name = gpuagent_store.link_name(p.origin, me)));
        IF NOT proven THEN
            RETURN;
        END IF;
    END IF;
    INSERT INTO gpuagent_store.stability AS s (candidate, beats) VALUES (pg_current_snapshot(), members)
        ON CONFLICT (one) DO UPDATE SET candidate = excluded.candidate, beats = excluded.beats,
            stable = CASE WHEN proven THEN s.candidate ELSE s.stable END,
            origins = CASE WHEN proven THEN ARRAY(SELECT k::uuid FROM jsonb_object_keys(s.beats) k) ELSE s.origins END;
END
$$;
COMMENT ON FUNCTION gpuagent_store.advance_stability(uuid) IS 'which facts all peers are known to have, by the beats that they acknowledge';

CREATE FUNCTION gpuagent_store.write_beat() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    site record;
    found_out record;
BEGIN
    IF to_regclass('gpuagent_store.heartbeat') IS NULL THEN
        RETURN false;
    END IF;
    SELECT s.origin, s.problem, s.files, s.doubted_files INTO site FROM gpuagent_store.site s
        WHERE gpuagent_store.is_this_node(s.system_identifier, s.database);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    found_out := gpuagent_store.node_problem();
    IF found_out.problem IS DISTINCT FROM site.problem OR site.files <> gpuagent_store.files_identity()
        AND (found_out.confirmed OR site.doubted_files IS DISTINCT FROM gpuagent_store.files_identity()) THEN
        UPDATE gpuagent_store.site s SET problem = found_out.problem,
            files = CASE WHEN found_out.confirmed THEN gpuagent_store.files_identity() ELSE s.files END,
            doubted_files = CASE WHEN NOT found_out.confirmed THEN gpuagent_store.files_identity() END,
            doubted_at = CASE WHEN found_out.confirmed THEN NULL
                WHEN s.doubted_files = gpuagent_store.files_identity() THEN s.doubted_at ELSE clock_timestamp() END;
    END IF;
    -- The beats of a copy would be taken for those of the node.
    IF found_out.confirmed THEN
        INSERT INTO gpuagent_store.heartbeat AS h (node, n, sent_at, acks)
            VALUES (site.origin, 1, clock_timestamp(), gpuagent_store.acknowledgements())
            ON CONFLICT (node) DO UPDATE SET n = h.n + 1, sent_at = excluded.sent_at, acks = excluded.acks, received_at = clock_timestamp();
        PERFORM gpuagent_store.advance_stability(site.origin);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION gpuagent_store.write_beat() IS 'the next beat of this node, unless it may be a copy of it; false when this database is none';

CREATE FUNCTION gpuagent_store.beat() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_beat' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.beat() IS 'write_beat(): task of the maintenance worker';

CREATE FUNCTION gpuagent_store.wake_follower() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_wake_follower' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.wake_follower() IS 'the maintenance worker looks for facts after the commit';

CREATE FUNCTION gpuagent_store.lose_fact() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM gpuagent_store.head h WHERE h.class = OLD.class AND h.object = OLD.object AND h.part = OLD.part
               AND h.origin = OLD.origin AND h.seq = OLD.seq) THEN
        INSERT INTO gpuagent_store.waiting (class, object, part, hlc, problem)
            VALUES (OLD.class, OLD.object, OLD.part, OLD.hlc, 'a fact was removed') ON CONFLICT DO NOTHING;
    END IF;
    PERFORM gpuagent_store.wake_follower();
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION gpuagent_store.lose_fact() IS
    'trigger of change in the workers of logical replication: a head that its node has removed makes the key be merged again';

-- A fact goes when one that all have supersedes it, oldest first: of what is left, everything but heads has been superseded by something
-- that is there, in whatever order nodes remove theirs. Facts of nodes that are gone are removed by all that have them.
CREATE FUNCTION gpuagent_store.prune_keys(me uuid, stable pg_snapshot, origins uuid[], keys integer) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH key AS MATERIALIZED (
        (SELECT p.class, p.object, p.part FROM gpuagent_store.prunable p WHERE NOT p.buried ORDER BY p.looked_at LIMIT $4)
        UNION ALL
        (SELECT p.class, p.object, p.part FROM gpuagent_store.prunable p
         WHERE p.buried AND p.looked_at <= now() - current_setting('gpuagent.tombstone_grace')::interval ORDER BY p.looked_at LIMIT $4)
    -- Neither joins nor sublinks that could become one: of such sets the planner knows nothing, and would go through them again and again.
    ), fact AS MATERIALIZED (
        SELECT f.*, count(*) OVER (PARTITION BY f.class, f.object, f.part) AS facts,
            count(*) FILTER (WHERE f.origin <> $1 AND NOT f.head) OVER (PARTITION BY f.class, f.object, f.part
                ORDER BY f.hlc, f.origin, f.seq ROWS UNBOUNDED PRECEDING) AS blocked_by
        FROM (
            SELECT c.class, c.object, c.part, c.origin, c.seq, c.hlc, c.deleted, c.parents, uuid_send(c.origin) || int8send(c.seq) AS id,
                c.origin = ANY ($3) AND pg_visible_in_snapshot(c.xact, $2) AS stable,
                EXISTS (SELECT FROM gpuagent_store.head h WHERE h.class = c.class AND h.object = c.object AND h.part = c.part
                        AND h.origin = c.origin AND h.seq = c.seq) AS head
            FROM key k JOIN gpuagent_store.change c USING (class, object, part)) f
    ), superseded AS MATERIALIZED (
        SELECT DISTINCT substr(f.parents, 24 * i + 1, 24) AS id
        FROM fact f CROSS JOIN generate_series(0, octet_length(f.parents) / 24 - 1) i WHERE f.stable
    ), buried AS (
        SELECT h.origin, h.seq FROM fact f JOIN gpuagent_store.head h USING (class, object, part, origin, seq)
        WHERE f.deleted AND f.stable AND f.origin = $1 AND f.facts = 1
            AND to_timestamp((f.hlc >> 16) / 1000.0) <= now() - current_setting('gpuagent.tombstone_grace')::interval
        -- Somebody may be writing the key again.
        FOR UPDATE OF h SKIP LOCKED
    ), useless AS MATERIALIZED (
        SELECT f.origin, f.seq FROM fact f
        WHERE CASE WHEN f.head OR NOT f.id IN (SELECT u.id FROM superseded u) THEN false
            WHEN f.origin = $1 THEN f.stable AND f.blocked_by = 0
            ELSE NOT f.origin IN (SELECT p.origin FROM gpuagent.peer p) END
        UNION ALL SELECT b.origin, b.seq FROM buried b
    ), removed AS (
        DELETE FROM gpuagent_store.change c USING useless u WHERE c.origin = u.origin AND c.seq = u.seq
        RETURNING c.class, c.object, c.part, c.origin, c.seq, uuid_send(c.origin) || int8send(c.seq) AS id
    ), headless AS (
        DELETE FROM gpuagent_store.head h USING removed r WHERE h.class = r.class AND h.object = r.object AND h.part = r.part
            AND h.origin = r.origin AND h.seq = r.seq
    ), rest AS (
        SELECT k.class, k.object, k.part, count(f.id) FILTER (WHERE NOT f.head) AS superseded,
            max(f.hlc) FILTER (WHERE f.deleted AND f.origin = $1) AS tombstone
        FROM key k LEFT JOIN (SELECT f.* FROM fact f WHERE NOT f.id IN (SELECT r.id FROM removed r)) f USING (class, object, part)
        GROUP BY k.class, k.object, k.part
    ), done AS (
        DELETE FROM gpuagent_store.prunable p USING rest r WHERE p.class = r.class AND p.object = r.object AND p.part = r.part
            AND r.superseded = 0 AND r.tombstone IS NULL
    ), later AS (
        UPDATE gpuagent_store.prunable p SET buried = r.superseded = 0,
            looked_at = CASE WHEN r.superseded = 0 THEN to_timestamp((r.tombstone >> 16) / 1000.0) ELSE now() END
            FROM rest r WHERE p.class = r.class AND p.object = r.object AND p.part = r.part AND (r.superseded > 0 OR r.tombstone IS NOT NULL)
    )
    SELECT count(*) FROM removed
$$;
COMMENT ON FUNCTION gpuagent_store.prune_keys(uuid, pg_snapshot, uuid[], integer) IS
    'removes facts of some prunable keys that stable ones have superseded, and tombstones after their grace; returns how many';

CREATE FUNCTION gpuagent_store.prune_facts(OUT removed bigint, OUT remaining boolean)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    me uuid;
    s record;
BEGIN
    removed := 0;
    remaining := false;
    IF to_regclass('gpuagent_store.stability') IS NULL THEN
        RETURN;
    END IF;
    me := gpuagent_store.this_node();
    SELECT t.stable, t.origins, t.pruned INTO s FROM gpuagent_store.stability t WHERE t.stable IS NOT NULL AND me IS NOT NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF s.pruned IS NULL OR s.pruned::text <> s.stable::text THEN
        INSERT INTO gpuagent_store.prunable (class, object, part, looked_at)
            SELECT DISTINCT c.class, c.object, c.part, now() FROM gpuagent_store.change c
            WHERE (s.pruned IS NULL OR c.xact >= pg_snapshot_xmin(s.pruned) AND NOT pg_visible_in_snapshot(c.xact, s.pruned))
                AND pg_visible_in_snapshot(c.xact, s.stable) AND (octet_length(c.parents) > 0 OR c.deleted)
            ON CONFLICT (class, object, part) DO UPDATE SET looked_at = excluded.looked_at, buried = false;
    END IF;
    -- The last number stays known: whether peers know of a later one tells old states of this node.
    UPDATE gpuagent_store.stability t SET pruned = s.stable, last_seq = greatest(t.last_seq, n.seq)
        FROM (SELECT COALESCE(max(c.seq), 0) AS seq FROM gpuagent_store.change c WHERE c.origin = me) n
        WHERE t.last_seq < n.seq OR s.pruned IS NULL OR s.pruned::text <> s.stable::text;
    removed := gpuagent_store.prune_keys(me, s.stable, s.origins, 5000);
    remaining := EXISTS (SELECT FROM gpuagent_store.prunable p WHERE NOT p.buried);
END
$$;
COMMENT ON FUNCTION gpuagent_store.prune_facts() IS 'removes facts that are of no use; how many, and whether keys remain to be looked at';

CREATE FUNCTION gpuagent_store.prune() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_prune' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.prune() IS 'prune_facts(): task of the maintenance worker';

CREATE FUNCTION gpuagent_store.peer_stats() RETURNS TABLE (peer text, origin uuid, state text, last_heartbeat_at timestamptz, lag interval,
    clock_offset interval, last_message_at timestamptz, apply_errors bigint, slot_state text, unsent_bytes bigint, waiting bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    me uuid;
    late interval;
    lost interval;
BEGIN
    IF to_regclass('gpuagent.peer') IS NULL THEN
        RETURN;
    END IF;
    me := gpuagent_store.this_node();
    late := 3 * current_setting('gpuagent.heartbeat_interval')::interval;
    lost := current_setting('gpuagent.peer_timeout');
    RETURN QUERY SELECT p.peer, p.origin, CASE
            WHEN EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srsubid = s.oid AND r.srsubstate <> 'r') THEN 'joining'
            WHEN b.age > lost THEN 'lost' WHEN b.age > late THEN 'late' ELSE 'active' END,
        h.received_at, CASE WHEN b.age > least(late, lost) THEN b.age ELSE (a.there - a.sent_at + (h.received_at - h.sent_at)) / 2 END,
        (a.there - a.sent_at - (h.received_at - h.sent_at)) / 2,
        w.last_msg_receipt_time, e.apply_error_count + e.sync_error_count, r.wal_status,
        CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_lsn() - r.confirmed_flush_lsn)::bigint END,
        (SELECT count(*) FROM gpuagent_store.waiting)
        FROM gpuagent.peer p JOIN pg_subscription s ON s.subname = p.subscription
            JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
            LEFT JOIN gpuagent_store.heartbeat h ON h.node = p.origin
            -- When our last beat that it knew was sent, by our clock, and came there, by its own.
            CROSS JOIN LATERAL (SELECT (h.acks #>> ARRAY[me::text, 'sent_at'])::timestamptz AS sent_at,
                (h.acks #>> ARRAY[me::text, 'received_at'])::timestamptz AS there) a
            CROSS JOIN LATERAL (SELECT clock_timestamp() - COALESCE(h.received_at, p.created_at) AS age) b
            LEFT JOIN pg_stat_subscription w ON w.subid = s.oid AND w.relid IS NULL
            LEFT JOIN pg_stat_subscription_stats e ON e.subid = s.oid
            LEFT JOIN pg_replication_slots r ON r.slot_name = gpuagent_store.link_name(p.origin, me)
        ORDER BY p.peer;
END
$$;
COMMENT ON FUNCTION gpuagent_store.peer_stats() IS 'implementation of stat_peer';

CREATE VIEW gpuagent.stat_peer AS SELECT * FROM gpuagent_store.peer_stats();
COMMENT ON VIEW gpuagent.stat_peer IS
    'peers: whether their beats come (active, late, lost) or a copy runs (joining), how long a commit takes from one to the other, how far the peer''s clock is ahead; errors of the subscription; slot_state and unsent_bytes are of the slot that the peer has here, waiting counts keys whose facts the tables could not follow yet';
