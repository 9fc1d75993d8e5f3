
-- FACTS OF PEERS: what nodes write becomes rows of gpuagent_store.change, which logical replication carries to all nodes;
-- values of keys are computed from them, and the tables follow (doc/architecture.md)
CREATE FUNCTION gpuagent_store.apply_once() RETURNS trigger
    AS 'MODULE_PATHNAME', 'ga_apply_once' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.apply_once() IS 'trigger of change and payload in the workers of logical replication: takes in what is not there';

CREATE FUNCTION gpuagent_store.publish() RETURNS trigger
    AS 'MODULE_PATHNAME', 'ga_publish' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.publish() IS 'trigger after statements on agent, expert and weight_version of a node: what they wrote becomes facts';

CREATE FUNCTION gpuagent_store.publish_existing() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_publish_existing' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.publish_existing() IS 'makes facts of what is there and has none, with the times at which it was written';

CREATE FUNCTION gpuagent_store.publish_fact(class text, object text, body jsonb) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_publish_fact' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.publish_fact(text, text, jsonb) IS 'writes a fact that comes from no table; false when this database is no node';

CREATE FUNCTION gpuagent_store.publish_again(origin uuid, seq bigint, class text, object text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_publish_again' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.publish_again(uuid, bigint, text, text) IS 'writes a fact once more, about that object and over all heads of its key; false when this database is no node';

CREATE FUNCTION gpuagent_store.is_this_node(system_identifier bigint, database oid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_is_this_node' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.is_this_node(bigint, oid) IS 'whether these are the server and database of the session; copies have those of their original';

CREATE FUNCTION gpuagent_store.files_identity() RETURNS text
    AS 'MODULE_PATHNAME', 'ga_files_identity' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.files_identity() IS 'which files the database lives in: others in each copy of them';

CREATE FUNCTION gpuagent_store.clock_at(at timestamptz) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_clock_at' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.clock_at(timestamptz) IS 'the hybrid logical clock''s time of something that was written then; never in the future';

CREATE FUNCTION gpuagent_store.chunk_bytes(hash bytea) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_chunk_bytes' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.chunk_bytes(bytea) IS 'raw bytes of a stored chunk; NULL when it is missing';

CREATE FUNCTION gpuagent_store.value_shape(value gpuagent.agent_state) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('dtype', gpuagent.dtype($1), 'shape', gpuagent.shape($1))
$$;
COMMENT ON FUNCTION gpuagent_store.value_shape(gpuagent.agent_state) IS 'dtype and shape, which with tensor_bytes() are the value to the last bit';

CREATE FUNCTION gpuagent_store.value_of(shape jsonb, data bytea) RETURNS gpuagent.agent_state
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT gpuagent.tensor($1 ->> 'dtype', ARRAY(SELECT d::bigint FROM jsonb_array_elements_text($1 -> 'shape') WITH ORDINALITY s(d, n) ORDER BY n), $2)::gpuagent.agent_state
$$;
COMMENT ON FUNCTION gpuagent_store.value_of(jsonb, bytea) IS 'the value of value_shape() and tensor_bytes()';

CREATE FUNCTION gpuagent_store.merge_facts(class text, object text, part text, from_hlc bigint, strategy text, priority uuid[],
    OUT origin uuid, OUT seq bigint, OUT hlc bigint, OUT winner boolean) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_merge_facts' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 2;
COMMENT ON FUNCTION gpuagent_store.merge_facts(text, text, text, bigint, text, uuid[]) IS
    'heads of a key and the winner among them, of its facts from a time of the clock on';

CREATE FUNCTION gpuagent_store.load_chunk(hash bytea, dtype text, data bytea) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_load_chunk' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.load_chunk(bytea, text, bytea) IS
    'stores a chunk of raw bytes; dtype is for compression; XX001 when it does not have this hash';

CREATE FUNCTION gpuagent_store.make_node(make boolean) RETURNS uuid
    AS 'MODULE_PATHNAME', 'ga_make_node' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.make_node(boolean) IS
    'forgets all facts; with make, this database is a node with a new name, which it returns, else none any more';

-- FOLLOWING
CREATE TYPE gpuagent_store.change_row AS (origin uuid, seq bigint, class text, object text, part text, deleted boolean,
    version bigint, fitness double precision, body jsonb, parts bytea[]);
COMMENT ON TYPE gpuagent_store.change_row IS 'what a fact says';

CREATE FUNCTION gpuagent_store.take_up(tensor bytea) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whole record;
    p record;
BEGIN
    IF tensor IS NULL OR gpuagent_store.keep_tensor(tensor) THEN
        RETURN true;
    END IF;
    -- Before its contents: what these lack may arrive at any time, and then be seen here without having been seen there.
    SELECT y.dtype, y.shape, y.nbytes, y.data INTO whole FROM gpuagent_store.payload y WHERE y.hash = take_up.tensor AND y.kind = 'tensor' LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR p IN
        WITH RECURSIVE tree(hash) AS (
            SELECT whole.data WHERE whole.nbytes > 0
            UNION
            SELECT c.child FROM tree t CROSS JOIN LATERAL (
                SELECT gpuagent_store.child_hashes(n.data) AS child FROM (SELECT y.data FROM gpuagent_store.payload y
                    WHERE y.hash = t.hash AND y.kind = 'node' LIMIT 1) n) c
        )
        SELECT t.hash, y.kind, y.nbytes, y.dtype, y.data
        FROM (SELECT DISTINCT hash FROM tree) t LEFT JOIN LATERAL (
            SELECT q.kind, q.nbytes, q.dtype, q.data FROM gpuagent_store.payload q WHERE q.hash = t.hash AND q.kind <> 'tensor' LIMIT 1) y ON true
    LOOP
        IF p.kind IS NULL THEN
            RETURN false;
        ELSIF p.kind = 'node' THEN
            PERFORM gpuagent_store.load_node(p.hash, p.nbytes, p.data);
        ELSE
            PERFORM gpuagent_store.load_chunk(p.hash, p.dtype, p.data);
        END IF;
    END LOOP;
    PERFORM gpuagent_store.load_tensor(tensor, whole.dtype, whole.shape, whole.data);
    RETURN true;
END
$$;
COMMENT ON FUNCTION gpuagent_store.take_up(bytea) IS
    'brings a tensor that arrived from a peer into the store, with every hash computed anew; false when some of it has not arrived';

CREATE FUNCTION gpuagent_store.follow_agent(fact gpuagent_store.change_row) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF fact.deleted THEN
        DELETE FROM gpuagent.agent a WHERE a.id = fact.object;
        RETURN NULL;
    END IF;
    INSERT INTO gpuagent.agent AS a (id, state, memory, generation, fitness, metadata, version, origin)
        VALUES (fact.object, gpuagent_store.value_of(fact.body -> 'state', fact.parts[1]),
                gpuagent_store.value_of(fact.body -> 'memory', fact.parts[2]), (fact.body ->> 'generation')::bigint, fact.fitness,
                fact.body -> 'metadata', fact.version, fact.origin)
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, memory = excluded.memory, generation = excluded.generation,
            fitness = excluded.fitness, metadata = excluded.metadata, version = greatest(a.version + 1, excluded.version),
            origin = excluded.origin, updated_at = now();
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION gpuagent_store.follow_agent(gpuagent_store.change_row) IS 'brings an agent to what a fact says';

-- An expert is there while its configuration, or a layer, is.
CREATE FUNCTION gpuagent_store.follow_config(fact gpuagent_store.change_row) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT fact.deleted THEN
        INSERT INTO gpuagent.expert AS e (expert, domain, parameter_count, learning_rate, architecture, metadata)
            VALUES (fact.object, fact.body ->> 'domain', (fact.body ->> 'parameter_count')::bigint,
                    (fact.body ->> 'learning_rate')::double precision, NULLIF(fact.body -> 'architecture', 'null'), fact.body -> 'metadata')
            ON CONFLICT (expert) DO UPDATE SET domain = excluded.domain, parameter_count = excluded.parameter_count,
                learning_rate = excluded.learning_rate, architecture = excluded.architecture, metadata = excluded.metadata, updated_at = now();
    ELSIF EXISTS (SELECT FROM gpuagent_store.head h JOIN gpuagent_store.change c USING (origin, seq)
                  WHERE h.class = 'weight' AND h.object = fact.object AND h.winner AND NOT c.deleted) THEN
        UPDATE gpuagent.expert e SET domain = NULL, parameter_count = NULL, learning_rate = NULL, architecture = NULL,
            metadata = '{}', updated_at = now() WHERE e.expert = fact.object;
    ELSE
        DELETE FROM gpuagent.expert e WHERE e.expert = fact.object;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION gpuagent_store.follow_config(gpuagent_store.change_row) IS 'brings an expert''s configuration to what a fact says';

CREATE FUNCTION gpuagent_store.follow_weight(fact gpuagent_store.change_row) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    e record;
    newest record;
    v bigint;
BEGIN
    IF NOT gpuagent_store.take_up(fact.parts[1]) OR NOT gpuagent_store.take_up(fact.parts[2]) THEN
        RETURN 'contents have not arrived';
    END IF;
    SELECT w.version, w.weights, w.biases, w.deleted, w.metadata INTO newest FROM gpuagent.weight_version w
        WHERE w.expert = fact.object AND w.layer = fact.part ORDER BY w.version DESC LIMIT 1;
    IF fact.deleted AND newest.version IS NULL
        OR (newest.weights, newest.biases, newest.deleted) IS NOT DISTINCT FROM (fact.parts[1], fact.parts[2], fact.deleted)
            AND (fact.deleted OR newest.metadata = fact.body -> 'metadata') THEN
        RETURN NULL;
    END IF;
    INSERT INTO gpuagent.expert (expert) VALUES (fact.object) ON CONFLICT DO NOTHING;
    SELECT x.version, x.version_xact = pg_current_xact_id() AND x.version_at = now() AS mine INTO STRICT e
        FROM gpuagent.expert x WHERE x.expert = fact.object FOR UPDATE;
    -- The number that its writer gave it, unless versions of this node stand there.
    v := CASE WHEN fact.version >= e.version AND fact.version > COALESCE(newest.version, 0) THEN fact.version
              WHEN e.mine THEN e.version ELSE e.version + 1 END;
    IF v > e.version THEN
        UPDATE gpuagent.expert x SET version = v, version_xact = pg_current_xact_id(), version_at = now(), updated_at = now()
            WHERE x.expert = fact.object;
    END IF;
    PERFORM gpuagent_store.set_weight_version(fact.object, fact.part, v, fact.parts[1], fact.parts[2], fact.body -> 'metadata');
    UPDATE gpuagent.weight_version w SET origin = fact.origin WHERE w.expert = fact.object AND w.layer = fact.part AND w.version = v;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION gpuagent_store.follow_weight(gpuagent_store.change_row) IS
    'makes what a fact says the newest version of a layer; returns why not when its contents have not arrived';

-- After the last layer of an expert whose configuration was deleted, too, the expert goes.
CREATE FUNCTION gpuagent_store.tidy_expert(expert text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM gpuagent.expert e WHERE e.expert = $1
        AND EXISTS (SELECT FROM gpuagent_store.head h JOIN gpuagent_store.change c USING (origin, seq)
                    WHERE h.class = 'config' AND h.object = $1 AND h.winner AND c.deleted)
        AND NOT EXISTS (SELECT FROM gpuagent_store.head h JOIN gpuagent_store.change c USING (origin, seq)
                        WHERE h.class = 'weight' AND h.object = $1 AND h.winner AND NOT c.deleted)
$$;
COMMENT ON FUNCTION gpuagent_store.tidy_expert(text) IS 'removes an expert whose configuration and layers are all deleted';

-- Conflicts of the class are looked at again.
CREATE FUNCTION gpuagent_store.follow_strategy(fact gpuagent_store.change_row) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO gpuagent_store.strategy (class, strategy, priority)
        VALUES (fact.object, fact.body ->> 'strategy', ARRAY(SELECT jsonb_array_elements_text(fact.body -> 'priority')::uuid))
        ON CONFLICT (class) DO UPDATE SET strategy = excluded.strategy, priority = excluded.priority;
    INSERT INTO gpuagent_store.waiting (class, object, part, hlc, problem)
        SELECT h.class, h.object, h.part, min(h.hlc), 'the strategy has changed' FROM gpuagent_store.head h
        WHERE h.class = fact.object GROUP BY h.class, h.object, h.part HAVING count(*) > 1
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION gpuagent_store.follow_strategy(gpuagent_store.change_row) IS 'sets the strategy of a class to what a fact says';

CREATE FUNCTION gpuagent_store.lock_key(class text, object text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Never waits: a session that has the row may wait for one that is locked here.
    IF class = 'agent' THEN
        PERFORM FROM gpuagent.agent a WHERE a.id = object FOR UPDATE SKIP LOCKED;
        RETURN FOUND OR NOT EXISTS (SELECT FROM gpuagent.agent a WHERE a.id = object);
    ELSIF class IN ('config', 'weight') THEN
        PERFORM FROM gpuagent.expert e WHERE e.expert = object FOR UPDATE SKIP LOCKED;
        RETURN FOUND OR NOT EXISTS (SELECT FROM gpuagent.expert e WHERE e.expert = object);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION gpuagent_store.lock_key(text, text) IS 'locks the row that a key belongs to, if it is there; false when another session has it';

CREATE FUNCTION gpuagent_store.follow_winner(class text, object text, part text, origin uuid, seq bigint) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    -- Below deadlock_timeout: it is never a session that has to give way.
    SET lock_timeout = '500ms' AS $$
DECLARE
    fact gpuagent_store.change_row;
    problem text;
BEGIN
    SELECT c.origin, c.seq, c.class, c.object, c.part, c.deleted, c.version, c.fitness, c.body, c.parts INTO STRICT fact
        FROM gpuagent_store.change c WHERE c.origin = $4 AND c.seq = $5;
    problem := CASE class
        WHEN 'agent' THEN gpuagent_store.follow_agent(fact)
        WHEN 'config' THEN gpuagent_store.follow_config(fact)
        WHEN 'weight' THEN gpuagent_store.follow_weight(fact)
        WHEN 'strategy' THEN gpuagent_store.follow_strategy(fact) END;
    IF problem IS NULL THEN
        UPDATE gpuagent_store.head h SET winner = h.origin = $4 AND h.seq = $5
            WHERE h.class = $1 AND h.object = $2 AND h.part = $3;
        IF class = 'weight' AND fact.deleted THEN
            PERFORM gpuagent_store.tidy_expert(object);
        END IF;
    END IF;
    RETURN problem;
-- A table of the user may refuse a row for reasons of its own. The other keys go on.
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;
COMMENT ON FUNCTION gpuagent_store.follow_winner(text, text, text, uuid, bigint) IS
    'brings the tables to the winner of a key; returns why that cannot be done';

-- The same for all facts of a transaction, so that the layers of a model that lost become one model.
CREATE FUNCTION gpuagent_store.branch_name(object text, origin uuid, hlc bigint) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT object || '~' || left(origin::text, 8) || '~' || to_hex(hlc)
$$;
COMMENT ON FUNCTION gpuagent_store.branch_name(text, uuid, bigint) IS 'name under which strategy keep_both keeps a write that is not the value';

-- By the node that wrote it, which writes it once: whatever becomes of the branch later is a write of its own.
CREATE FUNCTION gpuagent_store.keep_branches(class text, object text, part text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT c.origin, c.seq, gpuagent_store.branch_name(c.object, c.origin, c.hlc) AS branch
        FROM gpuagent_store.head h JOIN gpuagent_store.change c USING (origin, seq)
        JOIN gpuagent_store.head v ON v.class = $1 AND v.object = $2 AND v.part = $3 AND v.winner
        JOIN gpuagent_store.change w ON w.origin = v.origin AND w.seq = v.seq
        WHERE h.class = $1 AND h.object = $2 AND h.part = $3 AND NOT h.winner
            AND h.origin = gpuagent_store.this_node() AND NOT c.deleted
            AND (w.deleted OR (c.fitness, c.body, c.parts) IS DISTINCT FROM (w.fitness, w.body, w.parts))
    LOOP
        PERFORM gpuagent_store.publish_again(f.origin, f.seq, $1, f.branch)
            WHERE NOT EXISTS (SELECT FROM gpuagent_store.change b WHERE b.class = $1 AND b.object = f.branch AND b.part = $3);
    END LOOP;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;
COMMENT ON FUNCTION gpuagent_store.keep_branches(text, text, text) IS
    'strategy keep_both: what this node wrote and is not the value becomes an object of its own; returns why that cannot be done';

CREATE FUNCTION gpuagent_store.follow_key(class text, object text, part text, from_hlc bigint, OUT problem text, OUT locked boolean)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    had record;
    winner record;
BEGIN
    locked := NOT gpuagent_store.lock_key(class, object);
    IF locked THEN
        problem := 'a session has the row locked';
        RETURN;
    END IF;
    SELECT min(h.hlc) AS hlc, count(*) FILTER (WHERE h.winner) AS winners, min(h.origin::text) FILTER (WHERE h.winner) AS origin,
        min(h.seq) FILTER (WHERE h.winner) AS seq INTO had
        FROM gpuagent_store.head h WHERE h.class = $1 AND h.object = $2 AND h.part = $3;
    WITH merged AS MATERIALIZED (
        SELECT m.origin, m.seq, m.hlc, m.winner FROM gpuagent_store.merge_facts($1, $2, $3, least(had.hlc, $4),
            COALESCE((SELECT s.strategy FROM gpuagent_store.strategy s WHERE s.class = $1), 'latest_timestamp'),
            COALESCE((SELECT s.priority FROM gpuagent_store.strategy s WHERE s.class = $1), '{}')) m
    ), gone AS (
        DELETE FROM gpuagent_store.head h WHERE h.class = $1 AND h.object = $2 AND h.part = $3
            AND NOT EXISTS (SELECT FROM merged m WHERE m.origin = h.origin AND m.seq = h.seq)
    ), fresh AS (
        INSERT INTO gpuagent_store.head (class, object, part, origin, seq, hlc, winner)
            SELECT $1, $2, $3, m.origin, m.seq, m.hlc, false FROM merged m
            ON CONFLICT DO NOTHING
    )
    SELECT m.origin, m.seq INTO winner FROM merged m WHERE m.winner;
    IF winner.seq IS NOT NULL
        AND (had.winners IS DISTINCT FROM 1 OR had.origin::uuid IS DISTINCT FROM winner.origin OR had.seq IS DISTINCT FROM winner.seq) THEN
        problem := gpuagent_store.follow_winner($1, $2, $3, winner.origin, winner.seq);
    END IF;
    IF problem IS NULL AND EXISTS (SELECT FROM gpuagent_store.strategy s WHERE s.class = $1 AND s.strategy = 'keep_both') THEN
        problem := gpuagent_store.keep_branches($1, $2, $3);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.follow_key(text, text, text, bigint) IS
    'merges the facts of a key and brings the tables to the winner; why that cannot be done, and whether only a lock is in the way';

CREATE FUNCTION gpuagent_store.follow_facts() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    site record;
    snapshot pg_snapshot;
    k record;
    result record;
    locked bigint := 0;
BEGIN
    IF to_regclass('gpuagent_store.site') IS NULL THEN
        RETURN 0;
    END IF;
    -- One at a time.
    SELECT s.origin, s.followed INTO site FROM gpuagent_store.site s
        WHERE gpuagent_store.is_this_node(s.system_identifier, s.database) FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    -- What is not visible to it is looked at the next time, though some of it may be seen now.
    snapshot := pg_current_snapshot();
    FOR pass IN 1 .. 2 LOOP
        FOR k IN
            WITH fresh AS (
                SELECT c.class, c.object, c.part, min(c.hlc) AS hlc, bool_and(c.origin = site.origin) AS own
                FROM gpuagent_store.change c
                WHERE (site.followed IS NULL OR c.xact >= pg_snapshot_xmin(site.followed) AND NOT pg_visible_in_snapshot(c.xact, site.followed))
                GROUP BY c.class, c.object, c.part
            )
            SELECT q.class, q.object, q.part, min(q.hlc) AS hlc FROM (
                -- What this node wrote has its head, and is in the tables.
                SELECT f.class, f.object, f.part, f.hlc FROM fresh f
                    WHERE NOT (f.own AND (SELECT count(*) = 1 AND bool_and(h.winner) FROM gpuagent_store.head h
                                          WHERE h.class = f.class AND h.object = f.object AND h.part = f.part))
                UNION ALL SELECT w.class, w.object, w.part, w.hlc FROM gpuagent_store.waiting w) q
            WHERE (q.class = 'strategy') = (pass = 1)
            GROUP BY q.class, q.object, q.part
            ORDER BY array_position('{strategy,config,weight,agent}', q.class), q.object, q.part
        LOOP
            result := gpuagent_store.follow_key(k.class, k.object, k.part, k.hlc);
            locked := locked + result.locked::integer;
            IF result.problem IS NULL THEN
                DELETE FROM gpuagent_store.waiting w WHERE w.class = k.class AND w.object = k.object AND w.part = k.part;
            ELSE
                INSERT INTO gpuagent_store.waiting AS w (class, object, part, hlc, problem)
                    VALUES (k.class, k.object, k.part, k.hlc, result.problem)
                    ON CONFLICT (class, object, part) DO UPDATE SET hlc = least(w.hlc, excluded.hlc), problem = excluded.problem
                    WHERE w.hlc > excluded.hlc OR w.problem <> excluded.problem;
            END IF;
        END LOOP;
    END LOOP;
    UPDATE gpuagent_store.site s SET followed = snapshot WHERE s.followed IS NULL OR s.followed::text <> snapshot::text;
    RETURN locked;
END
$$;
COMMENT ON FUNCTION gpuagent_store.follow_facts() IS
    'brings the tables to what the facts that were taken in since the last time say; returns the number of keys whose rows are locked';

CREATE FUNCTION gpuagent_store.follow_peers() RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_follow_peers' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.follow_peers() IS
    'follow_facts() whose writes are no facts themselves: task of the maintenance worker';
