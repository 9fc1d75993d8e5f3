-- Links that are broken in ways that logical replication does not get over by itself.

CREATE FUNCTION gpuagent_store.copy_again(subscription oid, "table" oid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_copy_again' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.copy_again(oid, oid) IS
    'the server copies a table of a subscription anew; false where it has not finished its first copy. Superusers only';

-- The slots of a subscription that its peer has: its own, and those of copies.
CREATE FUNCTION gpuagent_store.slots_there(conninfo text, slot text, subscription oid) RETURNS text[]
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_to_array(gpuagent_store.ask_peer(
        CASE WHEN conninfo ~ '^postgres(ql)?://' THEN conninfo ELSE 'connect_timeout=5 ' || conninfo END,
        format('SELECT COALESCE(pg_catalog.string_agg(s.slot_name, '' ''), '''') FROM pg_catalog.pg_replication_slots s '
               'WHERE s.wal_status IS DISTINCT FROM ''lost'' AND (s.slot_name = %L OR s.slot_name LIKE %L)',
               slot, format('pg\_%s\_sync\_%%', subscription))), ' ')
$$;
COMMENT ON FUNCTION gpuagent_store.slots_there(text, text, oid) IS 'slots on a peer that a subscription, or its copies, can go on with';

-- A slot that is gone, or that lost its log, is made anew, and all is copied: facts that were missed come with that. A
-- copy drops its slot on the peer before it says so in a commit here: whoever crashes between the two begins again.
CREATE FUNCTION gpuagent_store.repair_peers() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    link record;
    slots text[];
    copies bigint := 0;
BEGIN
    IF to_regclass('gpuagent_store.site') IS NULL OR NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RETURN 0;
    END IF;
    FOR link IN
        SELECT p.peer, s.oid, p.slot, s.subconninfo AS conninfo FROM gpuagent.peer p JOIN pg_subscription s ON s.subname = p.subscription
            JOIN pg_database d ON d.oid = s.subdbid
        WHERE d.datname = current_database() AND s.subenabled AND (
            NOT EXISTS (SELECT FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NULL AND w.pid IS NOT NULL)
            OR EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srsubid = s.oid AND r.srsubstate = 'f'))
        ORDER BY p.peer
    LOOP
        BEGIN
            slots := gpuagent_store.slots_there(link.conninfo, link.slot, link.oid);
            IF link.slot = ANY (slots) THEN
                copies := copies + (SELECT count(*) FILTER (WHERE gpuagent_store.copy_again(r.srsubid, r.srrelid)) FROM pg_subscription_rel r
                    WHERE r.srsubid = link.oid AND r.srsubstate = 'f'
                    AND format('pg_%s_sync_%s_%s', r.srsubid, r.srrelid, (SELECT c.system_identifier FROM pg_control_system() c)) <> ALL (slots));
            ELSE
                RAISE LOG 'the slot "%" on peer "%" is made anew', link.slot, link.peer;
                PERFORM gpuagent_store.slot_at_commit(link.conninfo, link.slot, true, false);
                copies := copies + (SELECT count(*) FILTER (WHERE gpuagent_store.copy_again(r.srsubid, r.srrelid)) FROM pg_subscription_rel r
                    WHERE r.srsubid = link.oid);
            END IF;
        -- The peer is not there, or a copying process is: the next time, then.
        EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR object_in_use THEN
            NULL;
        END;
    END LOOP;
    RETURN copies;
END
$$;
COMMENT ON FUNCTION gpuagent_store.repair_peers() IS
    'makes slots anew that peers have lost, and copies what was missed; tables that are copied anew: task of the maintenance worker';
