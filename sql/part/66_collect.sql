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
    IF wait IS NOT FALSE THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('gpuagent.store_maintenance', 0));
        RETURN true;
    END IF;
    RETURN pg_try_advisory_xact_lock(hashtextextended('gpuagent.store_maintenance', 0));
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
