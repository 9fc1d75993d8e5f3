
-- PEERS: nodes that exchange facts over the server's logical replication. A node subscribes to each of its peers.
CREATE FUNCTION gpuagent_store.ask_peer(conninfo text, query text) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_ask_peer' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.ask_peer(text, text) IS 'first column of the first row of a query on a peer, which must be text; superusers only';

CREATE FUNCTION gpuagent_store.slot_at_commit(conninfo text, slot text, "create" boolean, force boolean) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_slot_at_commit' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.slot_at_commit(text, text, boolean, boolean) IS
    'makes, or drops, a replication slot on a peer when this transaction is about to commit; force: what fails is a warning';

CREATE FUNCTION gpuagent_store.link_name(subscriber uuid, publisher uuid) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'gpuagent_' || left(replace($1::text, '-', ''), 20) || '_' || left(replace($2::text, '-', ''), 20)
$$;
COMMENT ON FUNCTION gpuagent_store.link_name(uuid, uuid) IS 'name of the slot, on the publisher, and of the subscription of a link between nodes';

CREATE FUNCTION gpuagent_store.this_node() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.origin FROM gpuagent_store.site s WHERE gpuagent_store.is_this_node(s.system_identifier, s.database)
$$;
COMMENT ON FUNCTION gpuagent_store.this_node() IS 'name of this node among nodes; NULL when this database is none';

CREATE FUNCTION gpuagent_store.drop_publication() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    t text;
    event text;
BEGIN
    DROP PUBLICATION IF EXISTS gpuagent, gpuagent_contents;
    FOREACH t IN ARRAY '{agent,expert,weight_version}'::text[] LOOP
        FOREACH event IN ARRAY '{insert,update,delete}'::text[] LOOP
            EXECUTE format('DROP TRIGGER IF EXISTS %I ON gpuagent.%I', 'gpuagent_publish_' || event, t);
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent_store.drop_publication() IS 'removes publications and triggers';

-- Facts of nodes that are gone are offered by those that have them: who subscribes anew takes in what he does not have.
CREATE FUNCTION gpuagent_store.set_publications(replaced uuid DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    me uuid := gpuagent_store.this_node();
    verb text := CASE WHEN EXISTS (SELECT FROM pg_publication p WHERE p.pubname = 'gpuagent') THEN 'ALTER PUBLICATION %s SET' ELSE 'CREATE PUBLICATION %s FOR' END;
    origins text;
BEGIN
    WITH RECURSIVE known(origin) AS (
        (SELECT c.origin FROM gpuagent_store.change c ORDER BY c.origin, c.seq LIMIT 1)
        UNION ALL
        SELECT (SELECT c.origin FROM gpuagent_store.change c WHERE c.origin > k.origin ORDER BY c.origin, c.seq LIMIT 1) FROM known k WHERE k.origin IS NOT NULL
    )
    SELECT string_agg(quote_literal(o.origin), ', ' ORDER BY o.origin <> me, o.origin) INTO origins
        FROM (SELECT me AS origin UNION SELECT k.origin FROM known k) o
        WHERE o.origin = replaced OR NOT EXISTS (SELECT FROM gpuagent.peer p WHERE p.origin = o.origin);
    EXECUTE format(verb, 'gpuagent') || format(' TABLE gpuagent_store.change '
        '(origin, seq, hlc, class, object, part, deleted, version, fitness, parents, body, parts) WHERE (origin IN (%s)), '
        'TABLE gpuagent_store.heartbeat (node, n, sent_at, acks) WHERE (node = %L)', origins, me);
    EXECUTE format(verb, 'gpuagent_contents') || format(' TABLE gpuagent_store.payload '
        '(hash, origin, kind, nbytes, dtype, shape, data) WHERE (origin IN (%s))', origins);
    ALTER PUBLICATION gpuagent SET (publish = 'insert, update, delete');
    ALTER PUBLICATION gpuagent_contents SET (publish = 'insert');
END
$$;
COMMENT ON FUNCTION gpuagent_store.set_publications(uuid) IS
    'publishes the facts of this node, and of those that are no peers of it; replaced: a peer that is none any more';

CREATE FUNCTION gpuagent_store.begin_node() RETURNS uuid
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node uuid;
    t text;
    event text;
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF to_regclass('gpuagent_store.site') IS NULL THEN
        RAISE EXCEPTION 'the tables of peers do not exist' USING ERRCODE = 'undefined_table', HINT = 'Run SELECT gpuagent.setup().';
    END IF;
    PERFORM gpuagent_store.take_lock(hashtextextended('gpuagent.site', 0), true, false);
    node := gpuagent_store.this_node();
    IF node IS NOT NULL THEN
        RETURN node;
    END IF;
    IF current_setting('wal_level') <> 'logical' THEN
        RAISE EXCEPTION 'peers need wal_level = logical'
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is %s.', current_setting('wal_level')),
                HINT = 'Set it in postgresql.conf and restart the server.';
    END IF;
    IF current_setting('is_superuser') = 'off' THEN
        RAISE EXCEPTION 'must be superuser to make a database a node' USING ERRCODE = 'insufficient_privilege',
            HINT = 'Add the peer with a superuser''s connection first; once it is a node, any role that may replicate will do.';
    END IF;
    PERFORM gpuagent_store.drop_publication();
    node := gpuagent_store.make_node(true);
    -- What is there becomes facts in one piece: who writes meanwhile waits, and has a trigger afterwards.
    LOCK TABLE gpuagent.agent, gpuagent.expert, gpuagent.weight_version IN SHARE ROW EXCLUSIVE MODE;
    FOREACH t IN ARRAY '{agent,expert,weight_version}'::text[] LOOP
        FOREACH event IN ARRAY '{insert,update,delete}'::text[] LOOP
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON gpuagent.%I REFERENCING %s FOR EACH STATEMENT EXECUTE FUNCTION gpuagent_store.publish()',
                'gpuagent_publish_' || event, event, t,
                CASE event WHEN 'insert' THEN 'NEW TABLE AS new_rows' WHEN 'delete' THEN 'OLD TABLE AS old_rows'
                    ELSE 'OLD TABLE AS old_rows NEW TABLE AS new_rows' END);
        END LOOP;
    END LOOP;
    PERFORM gpuagent_store.set_publications();
    PERFORM gpuagent_store.publish_existing();
    RETURN node;
END
$$;
COMMENT ON FUNCTION gpuagent_store.begin_node() IS
    'makes this database a node, if it is none: name, publications, triggers, and facts of what is there; returns its name';

CREATE FUNCTION gpuagent_store.end_node() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node uuid;
BEGIN
    PERFORM gpuagent_store.take_lock(hashtextextended('gpuagent.site', 0), true, false);
    node := gpuagent_store.this_node();
    IF node IS NULL OR current_setting('is_superuser') = 'off' OR EXISTS (SELECT FROM gpuagent.peer)
        OR EXISTS (SELECT FROM pg_replication_slots s WHERE s.database = current_database()
                   AND s.slot_name LIKE 'gpuagent\_%\_' || left(replace(node::text, '-', ''), 20)) THEN
        RETURN false;
    END IF;
    PERFORM gpuagent_store.drop_publication();
    PERFORM gpuagent_store.make_node(false);
    RETURN true;
END
$$;
COMMENT ON FUNCTION gpuagent_store.end_node() IS 'when this node has no peer, and is none''s: it is no node any more, and writing costs nothing';

-- What a peer calls here, as the role of its subscription, which has to be a superuser's while this database is no node.
CREATE FUNCTION gpuagent_store.open_link(system_identifier bigint, replaced uuid DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node uuid;
BEGIN
    IF gpuagent_store.is_this_node(system_identifier, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) THEN
        RAISE EXCEPTION 'the peer is a database of the same server, or of a copy of it'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Both have the system identifier %s.', system_identifier);
    END IF;
    node := gpuagent_store.begin_node();
    IF current_setting('is_superuser') = 'on' THEN
        PERFORM gpuagent_store.set_publications(replaced);
    END IF;
    RETURN jsonb_build_object('origin', node, 'format', 1);
END
$$;
COMMENT ON FUNCTION gpuagent_store.open_link(bigint, uuid) IS 'called by a peer that is about to subscribe: makes this database a node, and says which; replaced: what the peer was before';

CREATE FUNCTION gpuagent_store.close_link() RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT gpuagent_store.end_node()::text
$$;
COMMENT ON FUNCTION gpuagent_store.close_link() IS 'called by a peer that has dropped its subscription';

CREATE FUNCTION gpuagent.add_peer(peer text, conninfo text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    me uuid;
    answer jsonb;
    other uuid;
    link text;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('peer', peer);
    IF conninfo IS NULL THEN
        RAISE EXCEPTION 'conninfo must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM gpuagent_store.take_lock(hashtextextended('gpuagent.peer', 0), true, false);
    IF EXISTS (SELECT FROM gpuagent.peer p WHERE p.peer = $1) THEN
        RAISE EXCEPTION 'peer "%" already exists', peer USING ERRCODE = 'duplicate_object';
    END IF;
    answer := gpuagent_store.ask_peer(conninfo, format('SELECT gpuagent_store.open_link(%s, %L)',
        (SELECT c.system_identifier FROM pg_control_system() c), (SELECT s.replaced FROM gpuagent_store.site s)));
    other := answer ->> 'origin';
    IF (answer ->> 'format')::bigint <> 1 THEN
        RAISE EXCEPTION 'peer "%" has another format of facts', peer
            USING ERRCODE = 'feature_not_supported', HINT = 'Bring both nodes to one version of gpuagent.';
    END IF;
    IF EXISTS (SELECT FROM gpuagent.peer p WHERE p.origin = other) THEN
        RAISE EXCEPTION 'the node of peer "%" is a peer already', peer
            USING ERRCODE = 'duplicate_object', DETAIL = format('Its name here is "%s".', (SELECT p.peer FROM gpuagent.peer p WHERE p.origin = other));
    END IF;
    me := gpuagent_store.begin_node();
    link := gpuagent_store.link_name(me, other);
    -- A copy drops its slot on the peer after a commit that says so: were it lost in a crash, the copy would want that slot for ever.
    EXECUTE format('CREATE SUBSCRIPTION %I CONNECTION %L PUBLICATION gpuagent, gpuagent_contents '
        'WITH (create_slot = false, slot_name = %1$L, copy_data = true, binary = true, synchronous_commit = local)', link, conninfo);
    INSERT INTO gpuagent.peer (peer, origin, subscription, slot) VALUES ($1, other, link, link);
    PERFORM gpuagent_store.set_publications();
    PERFORM gpuagent_store.slot_at_commit(conninfo, link, true, false);
END
$$;
COMMENT ON FUNCTION gpuagent.add_peer(text, text) IS
    'subscribes to another node, under a name: what is stored there comes here; call it there, too, for both directions. The slot there is made when the transaction commits. Superusers only';

CREATE FUNCTION gpuagent.drop_peer(peer text, force boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    p record;
    conninfo text;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('peer', peer);
    PERFORM gpuagent_store.take_lock(hashtextextended('gpuagent.peer', 0), true, false);
    DELETE FROM gpuagent.peer q WHERE q.peer = $1 RETURNING q.origin, q.subscription, q.slot INTO p;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'peer "%" does not exist', peer USING ERRCODE = 'undefined_object';
    END IF;
    DELETE FROM gpuagent_store.heartbeat h WHERE h.node = p.origin;
    SELECT s.subconninfo INTO conninfo FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
        WHERE s.subname = p.subscription AND d.datname = current_database();
    IF FOUND THEN
        EXECUTE format('ALTER SUBSCRIPTION %I DISABLE', p.subscription);
        EXECUTE format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', p.subscription);
        EXECUTE format('DROP SUBSCRIPTION %I', p.subscription);
        -- The slot of a node of which this database is a copy is the original's.
        IF EXISTS (SELECT FROM gpuagent_store.site s WHERE s.origin = gpuagent_store.this_node() AND s.files = gpuagent_store.files_identity()) THEN
            PERFORM gpuagent_store.slot_at_commit(conninfo, p.slot, false, COALESCE(force, false));
        END IF;
    END IF;
    IF NOT gpuagent_store.end_node() AND gpuagent_store.this_node() IS NOT NULL THEN
        PERFORM gpuagent_store.set_publications();
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent.drop_peer(text, boolean) IS
    'ends the subscription to a peer; its slot there is dropped when the transaction commits. What has come stays. force: also when the peer cannot be reached. Superusers only';

CREATE FUNCTION gpuagent.new_incarnation() RETURNS uuid
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    before uuid;
    node uuid := gen_random_uuid();
    p record;
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF current_setting('is_superuser') = 'off' THEN
        RAISE EXCEPTION 'must be superuser to make a database another node' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM gpuagent_store.take_lock(hashtextextended('gpuagent.peer', 0), true, false);
    PERFORM gpuagent_store.take_lock(hashtextextended('gpuagent.site', 0), true, false);
    before := gpuagent_store.this_node();
    IF before IS NULL THEN
        RAISE EXCEPTION 'this database is no node' USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Add a peer first.';
    END IF;
    -- Nobody writes under the name that ends.
    LOCK TABLE gpuagent.agent, gpuagent.expert, gpuagent.weight_version IN SHARE ROW EXCLUSIVE MODE;
    UPDATE gpuagent_store.site s SET origin = node, files = gpuagent_store.files_identity(), problem = NULL,
        doubted_files = NULL, doubted_at = NULL, replaced = before, followed = NULL;
    DELETE FROM gpuagent_store.heartbeat;
    DELETE FROM gpuagent_store.stability;
    FOR p IN
        WITH gone AS (DELETE FROM gpuagent.peer q RETURNING q.peer, q.subscription)
        SELECT g.peer, g.subscription, s.subconninfo FROM gone g JOIN pg_subscription s ON s.subname = g.subscription
            JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database() ORDER BY g.peer
    LOOP
        -- Their slots are the node's of which this may be a copy.
        EXECUTE format('ALTER SUBSCRIPTION %I DISABLE', p.subscription);
        EXECUTE format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', p.subscription);
        EXECUTE format('DROP SUBSCRIPTION %I', p.subscription);
        BEGIN
            PERFORM gpuagent.add_peer(p.peer, p.subconninfo);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'peer "%" was not added again: %', p.peer, SQLERRM USING HINT = 'Add it with gpuagent.add_peer().';
        END;
    END LOOP;
    PERFORM gpuagent_store.set_publications();
    RETURN node;
END
$$;
COMMENT ON FUNCTION gpuagent.new_incarnation() IS
    'makes a copy of a node, or an old state of one, a node of its own, which keeps all it has and takes in from its peers what it lacks; drop and add it on these. Superusers only';

CREATE FUNCTION gpuagent_store.peer_in_step(link record) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
                       WHERE s.subname = link.subscription AND r.srsubstate <> 'r')
        AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.slot_name = link.back
                        AND (s.confirmed_flush_lsn IS NULL OR s.confirmed_flush_lsn < link.here))
        -- There: our subscription's slot, and what its subscription to us has still to copy.
        AND gpuagent_store.ask_peer(link.conninfo, format('SELECT (s.confirmed_flush_lsn >= %L AND NOT EXISTS ('
            'SELECT FROM pg_catalog.pg_subscription_rel r JOIN pg_catalog.pg_subscription u ON u.oid = r.srsubid '
            'WHERE u.subname = %L AND r.srsubstate <> ''r''))::text FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %L',
            link.there, link.back, link.slot)) = 'true';
END
$$;
COMMENT ON FUNCTION gpuagent_store.peer_in_step(record) IS 'whether a link, and the one in the other direction, have passed two positions in the log';

CREATE FUNCTION gpuagent.wait_for_sync(peer text DEFAULT NULL, timeout interval DEFAULT '30 s') RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    me uuid;
    deadline timestamptz := clock_timestamp() + timeout;
    pause double precision := 0.01;
    link record;
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF peer IS NOT NULL AND NOT EXISTS (SELECT FROM gpuagent.peer p WHERE p.peer = $1) THEN
        RAISE EXCEPTION 'peer "%" does not exist', peer USING ERRCODE = 'undefined_object';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'wait_for_sync() must run in a READ COMMITTED transaction' USING ERRCODE = 'feature_not_supported';
    END IF;
    me := gpuagent_store.this_node();
    FOR link IN
        SELECT p.peer, p.subscription, p.slot, s.subconninfo AS conninfo, gpuagent_store.link_name(p.origin, me) AS back,
            pg_current_wal_lsn() AS here, gpuagent_store.ask_peer(s.subconninfo, 'SELECT pg_catalog.pg_current_wal_lsn()::text')::pg_lsn AS there
        FROM gpuagent.peer p JOIN pg_subscription s ON s.subname = p.subscription JOIN pg_database d ON d.oid = s.subdbid
        WHERE d.datname = current_database() AND ($1 IS NULL OR p.peer = $1) ORDER BY p.peer
    LOOP
        WHILE NOT COALESCE(gpuagent_store.peer_in_step(link), false) LOOP
            IF clock_timestamp() > deadline THEN
                RETURN false;
            END IF;
            PERFORM pg_sleep(pause);
            pause := least(pause * 2, 0.5);
        END LOOP;
    END LOOP;
    PERFORM gpuagent_store.follow_peers();
    RETURN true;
END
$$;
COMMENT ON FUNCTION gpuagent.wait_for_sync(text, interval) IS
    'waits until what this node and a peer (NULL: each) had committed at the call is on both, and this node''s tables follow it; false after timeout. Superusers only';

CREATE FUNCTION gpuagent.set_conflict_strategy(class text, strategy text, priority uuid[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF class IS NULL OR class NOT IN ('agent', 'config', 'weight') THEN
        RAISE EXCEPTION 'unknown class "%"', class USING ERRCODE = 'invalid_parameter_value', HINT = 'Use agent, config or weight.';
    END IF;
    IF strategy IS NULL OR strategy NOT IN ('latest_timestamp', 'highest_version', 'highest_fitness', 'origin_priority', 'keep_both', 'manual') THEN
        RAISE EXCEPTION 'unknown strategy "%"', strategy USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Use latest_timestamp, highest_version, highest_fitness, origin_priority, keep_both or manual.';
    END IF;
    IF (strategy = 'origin_priority') <> (cardinality(COALESCE(priority, '{}')) > 0) OR array_position(priority, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'priority is for strategy origin_priority, which needs it' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'List origins of nodes, the one whose writes win first.';
    END IF;
    IF NOT gpuagent_store.publish_fact('strategy', class, jsonb_build_object('strategy', strategy, 'priority', COALESCE(priority, '{}'))) THEN
        RAISE EXCEPTION 'this database is no node' USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Add a peer first.';
    END IF;
    PERFORM gpuagent_store.follow_peers();
END
$$;
COMMENT ON FUNCTION gpuagent.set_conflict_strategy(text, text, uuid[]) IS
    'how all nodes decide between writes of a class (agent, config, weight) that did not know of each other: latest_timestamp (the default), highest_version, highest_fitness, origin_priority with the nodes whose writes win, best first, keep_both (the others become objects of their own), or manual (the earliest, until resolve_conflict())';

CREATE FUNCTION gpuagent.resolve_conflict(origin uuid, seq bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    f record;
BEGIN
    PERFORM gpuagent_store.require_setup();
    SELECT c.class, c.object, c.part INTO f FROM gpuagent_store.change c WHERE c.origin = $1 AND c.seq = $2;
    IF NOT FOUND OR NOT gpuagent_store.lock_key(f.class, f.object) THEN
        RAISE EXCEPTION 'fact % of node % is not here, or another session is writing its key', seq, origin
            USING ERRCODE = 'undefined_object', HINT = 'gpuagent.conflict_head has the facts that are in conflict.';
    END IF;
    IF NOT gpuagent_store.publish_again($1, $2, f.class, f.object) THEN
        RAISE EXCEPTION 'this database is no node' USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Add a peer first.';
    END IF;
    PERFORM gpuagent_store.follow_peers();
END
$$;
COMMENT ON FUNCTION gpuagent.resolve_conflict(uuid, bigint) IS
    'writes one of the facts of a key once more, over all of its heads, so that on all nodes it is the value';

CREATE FUNCTION gpuagent_store.conflicts() RETURNS TABLE (class text, object text, part text, heads bigint,
    winner_origin uuid, winner_seq bigint, strategy text, since timestamptz)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF to_regclass('gpuagent_store.head') IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT h.class, h.object, h.part, count(*), (array_agg(h.origin) FILTER (WHERE h.winner))[1],
        (array_agg(h.seq) FILTER (WHERE h.winner))[1], COALESCE(min(s.strategy), 'latest_timestamp'),
        to_timestamp((max(h.hlc) >> 16) / 1000.0)
        FROM gpuagent_store.head h LEFT JOIN gpuagent_store.strategy s ON s.class = h.class
        GROUP BY h.class, h.object, h.part HAVING count(*) > 1 ORDER BY h.class, h.object, h.part;
END
$$;
COMMENT ON FUNCTION gpuagent_store.conflicts() IS 'implementation of conflict';

CREATE VIEW gpuagent.conflict AS SELECT * FROM gpuagent_store.conflicts();
COMMENT ON VIEW gpuagent.conflict IS
    'keys that nodes wrote without knowing of each other''s writes (heads), and whose write is the value; the same on all nodes that have the same facts';

CREATE FUNCTION gpuagent_store.conflict_heads() RETURNS TABLE (class text, object text, part text, origin uuid, seq bigint,
    winner boolean, written_at timestamptz, deleted boolean, version bigint, fitness double precision, body jsonb)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF to_regclass('gpuagent_store.head') IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT h.class, h.object, h.part, h.origin, h.seq, h.winner, to_timestamp((h.hlc >> 16) / 1000.0),
        c.deleted, c.version, c.fitness, c.body
        FROM gpuagent_store.head h JOIN gpuagent_store.change c USING (origin, seq)
        JOIN gpuagent_store.conflicts() k ON k.class = h.class AND k.object = h.object AND k.part = h.part
        ORDER BY h.class, h.object, h.part, h.hlc, h.origin, h.seq;
END
$$;
COMMENT ON FUNCTION gpuagent_store.conflict_heads() IS 'implementation of conflict_head';

CREATE VIEW gpuagent.conflict_head AS SELECT * FROM gpuagent_store.conflict_heads();
COMMENT ON VIEW gpuagent.conflict_head IS
    'the writes of each key in conflict, with what resolve_conflict() takes: with strategy manual the queue of what is to be decided';
