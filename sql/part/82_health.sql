
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
                COALESCE((SELECT max(c.seq) FROM gpuagent_store.change c WHERE c.origin = site.origin), 0) AS seq) mine;
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
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION gpuagent_store.write_beat() IS 'the next beat of this node, unless it may be a copy of it; false when this database is none';

CREATE FUNCTION gpuagent_store.beat() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_beat' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.beat() IS 'write_beat(): task of the maintenance worker';

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
