
-- FILES: what crashes leave and who removes exports. The functions in C ask for no right to files: see src/checkpoint/tend.c.
CREATE FUNCTION gpuagent_store.publish_export(temp text, name text, checkpoint bigint, uid uuid, to_latest boolean) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_publish_export' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.publish_export(text, text, bigint, uuid, boolean) IS
    'at commit, the private folder temp becomes nvme_storage/NAME (NULL: it is there already) and, if so asked, latest names it; until then this transaction finds it under that name';

CREATE FUNCTION gpuagent_store.lease_folder(path text, exclusive boolean) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_lease_folder' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.lease_folder(text, boolean) IS
    'until the end of the transaction nobody removes the folder (exclusive: nobody reads it under a lease); false when others keep it from that, or there is none';

CREATE FUNCTION gpuagent_store.journal_intents(
    OUT serial bigint, OUT kind text, OUT wrote boolean, OUT checkpoint bigint, OUT uid uuid, OUT name text, OUT previous text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_journal_intents' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION gpuagent_store.journal_intents() IS
    'exports and removals of this database that the journal says were begun and not that they are over';

CREATE FUNCTION gpuagent_store.journal_close(serial bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_journal_close' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.journal_close(bigint) IS 'when this transaction commits, the journal says that it is over';

CREATE FUNCTION gpuagent_store.tend_export(name text, uid uuid, level text, quiet bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_tend_export' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent_store.tend_export(text, uuid, text, bigint) IS
    'NULL when nvme_storage/NAME is whole; absent; young when it is not and something in it changed within quiet seconds; else it was put aside, and this is why';

CREATE FUNCTION gpuagent_store.own_export(name text, uid uuid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_own_export' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent_store.own_export(text, uuid) IS
    'true when the manifest of nvme_storage/NAME says that this database wrote it, of that checkpoint';

CREATE FUNCTION gpuagent_store.remove_export(name text, uid uuid) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_remove_export' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent_store.remove_export(text, uuid) IS
    'removes an export of this database under an exclusive lease: removed, foreign, leased or latest';

CREATE FUNCTION gpuagent_store.latest_name() RETURNS text
    AS 'MODULE_PATHNAME', 'ga_latest_name' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.latest_name() IS 'what nvme_storage/latest names; NULL for nothing';

CREATE FUNCTION gpuagent_store.latest_origin() RETURNS text
    AS 'MODULE_PATHNAME', 'ga_latest_origin' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent_store.latest_origin() IS 'export_origin of what latest names';

CREATE FUNCTION gpuagent_store.point_latest(name text, instead_of text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_point_latest' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent_store.point_latest(text, text) IS
    'latest names another export, or nothing (name NULL), if it still names instead_of; false when it does not or the other one is not whole';

CREATE FUNCTION gpuagent_store.list_exports() RETURNS SETOF text
    AS 'MODULE_PATHNAME', 'ga_list_exports' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION gpuagent_store.list_exports() IS 'names of the exports in nvme_storage';

CREATE FUNCTION gpuagent_store.sweep_tree(deep boolean) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_sweep_tree' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.sweep_tree(boolean) IS
    'removes private files and folders of processes that are gone, in the folders of the tree, or (deep) anywhere below';

CREATE FUNCTION gpuagent_store.tree_findings() RETURNS TABLE (item text, status text, detail text, hint text)
    AS 'MODULE_PATHNAME', 'ga_tree_findings' LANGUAGE C STABLE PARALLEL SAFE ROWS 1;
COMMENT ON FUNCTION gpuagent_store.tree_findings() IS 'what check_setup() sees of exports in the tree';

CREATE FUNCTION gpuagent_store.publish_key() RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT hashtextextended('gpuagent.export', 0)
$$;
COMMENT ON FUNCTION gpuagent_store.publish_key() IS
    'key of the lock (take_lock()) of who publishes exports, replays the journal or moves latest: from then to the end of the transaction';

CREATE FUNCTION gpuagent_store.export_origin(folder text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    manifest jsonb;
BEGIN
    manifest := gpuagent_store.read_manifest(folder);
    RETURN concat_ws(' ', manifest ->> 'source', manifest #>> '{checkpoint,uid}', manifest #>> '{checkpoint,id}');
EXCEPTION WHEN data_corrupted OR undefined_file OR wrong_object_type OR data_exception THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_origin(text) IS
    'server and database, uuid and number of the checkpoint that an export is of, by its manifest; NULL when that is not whole';

CREATE FUNCTION gpuagent_store.becomes_latest(checkpoint bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    origin text[] := string_to_array(gpuagent_store.latest_origin(), ' ');
BEGIN
    -- The files tell as well as the table, whose newest rows an old snapshot does not see.
    RETURN origin IS NULL OR NOT (
        EXISTS (SELECT FROM gpuagent.checkpoint c
            JOIN (SELECT gpuagent_store.list_exports() UNION ALL SELECT gpuagent_store.latest_name()) e (name)
                ON c.exported_path = 'nvme_storage/' || e.name
            WHERE c.id > becomes_latest.checkpoint)
        OR coalesce(origin[1] = gpuagent_store.xid_source() AND CASE WHEN origin[3] ~ '^[0-9]{1,18}$' THEN origin[3]::bigint END
            > becomes_latest.checkpoint, false));
END
$$;
COMMENT ON FUNCTION gpuagent_store.becomes_latest(bigint) IS
    'true when no newer checkpoint of this database has been exported, or what latest names is not there';

-- Under the lock of publish_key(), where every record that is open belongs to nobody who lives.
CREATE FUNCTION gpuagent_store.mend_latest(name text, previous text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    candidate text;
BEGIN
    IF gpuagent_store.latest_name() IS DISTINCT FROM name THEN
        RETURN true;
    END IF;
    FOR candidate IN
        SELECT previous WHERE previous IS NOT NULL
        UNION ALL
        SELECT n FROM (SELECT split_part(c.exported_path, '/', 2) FROM gpuagent.checkpoint c
            WHERE c.exported_path LIKE 'nvme\_storage/ckpt-%' AND c.exported_path <> 'nvme_storage/' || coalesce(name, '')
            ORDER BY c.id DESC) e (n)
        -- Who may write the table may write what is no name of an export.
        WHERE n ~ '^ckpt-[A-Za-z0-9._-]{1,240}$'
    LOOP
        IF gpuagent_store.point_latest(candidate, name) THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;
COMMENT ON FUNCTION gpuagent_store.mend_latest(text, text) IS
    'where latest names NAME, it names another whole export, previous or the newest of this database; false when there is none';

CREATE FUNCTION gpuagent_store.replay_orphan(name text, uid uuid, previous text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Nobody was ever told of the checkpoint, so no export at all is better than this one as the latest.
    IF NOT gpuagent_store.mend_latest(name, previous) THEN
        PERFORM gpuagent_store.point_latest(NULL::text, name);
    END IF;
    RETURN gpuagent_store.lease_folder('nvme_storage/' || name, true)
        AND gpuagent_store.remove_export(name, uid) <> 'latest'::text;
END
$$;
COMMENT ON FUNCTION gpuagent_store.replay_orphan(text, uuid, text) IS
    'removes the export of a checkpoint whose transaction did not commit; false while somebody reads it';

CREATE FUNCTION gpuagent_store.replay_exports() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    i record;
    k record;
    result bigint := 0;
BEGIN
    FOR i IN
        SELECT j.serial, j.kind, j.wrote, j.uid, j.name, CASE WHEN j.previous ~ '^ckpt-[A-Za-z0-9._-]{1,240}$' THEN j.previous END AS previous
        FROM gpuagent_store.journal_intents() j
    LOOP
        IF i.kind = 'export' AND i.name ~ '^ckpt-[A-Za-z0-9._-]{1,240}$' THEN
            SELECT c.id, c.exported_path INTO k FROM gpuagent.checkpoint c WHERE c.uid = i.uid;
            IF k.id IS NULL OR k.exported_path IS DISTINCT FROM 'nvme_storage/' || i.name THEN
                IF gpuagent_store.tend_export(i.name::text, i.uid::uuid, 'full'::text, 0::bigint) IS NOT NULL THEN
                    PERFORM gpuagent_store.mend_latest(i.name::text, i.previous::text);
                ELSIF k.id IS NOT NULL THEN
                    UPDATE gpuagent.checkpoint c SET exported_path = 'nvme_storage/' || i.name, exported_at = now() WHERE c.id = k.id;
                    IF gpuagent_store.becomes_latest(k.id::bigint) THEN
                        PERFORM gpuagent_store.point_latest(i.name::text, gpuagent_store.latest_name());
                    END IF;
                ELSIF i.wrote AND NOT gpuagent_store.replay_orphan(i.name::text, i.uid::uuid, i.previous::text) THEN
                    CONTINUE;
                END IF;
            END IF;
        END IF;
        PERFORM gpuagent_store.journal_close(i.serial::bigint);
        result := result + 1;
    END LOOP;
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent_store.replay_exports() IS
    'ends what the journal says was begun by who is gone: an export that is whole is entered in the catalogue, or removed when its checkpoint was never committed; one that is not is put aside; records ended. Under the lock of publish_key()';

CREATE FUNCTION gpuagent_store.discard_export(checkpoint bigint) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('gpuagent_store.discard') IS NOT NULL THEN
        INSERT INTO gpuagent_store.discard AS d (uid, path)
        SELECT c.uid, c.exported_path FROM gpuagent.checkpoint c
        WHERE c.id = discard_export.checkpoint AND c.exported_path LIKE 'nvme\_storage/ckpt-%'
        ON CONFLICT (uid) DO UPDATE SET path = excluded.path, discarded_at = now();
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.discard_export(bigint) IS
    'called in the transaction that deletes a checkpoint: after its commit and gpuagent.discard_grace the maintenance worker removes the folder of its export';

CREATE FUNCTION gpuagent_store.discard_exports() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    grace interval := current_setting('gpuagent.discard_grace')::interval;
    d record;
    name text;
    result bigint := 0;
BEGIN
    -- Nor while the tree's file system is not mounted.
    IF to_regclass('gpuagent_store.discard') IS NULL OR
        (gpuagent_store.latest_name() IS NULL AND NOT EXISTS (SELECT FROM gpuagent_store.list_exports()))
    THEN
        RETURN 0;
    END IF;
    FOR d IN SELECT x.uid, x.path, x.discarded_at <= now() - grace AS due FROM gpuagent_store.discard x
        -- On a full disk latest cannot be moved until the others have made room.
        ORDER BY x.path = 'nvme_storage/' || coalesce(gpuagent_store.latest_name(), ''), x.discarded_at
    LOOP
        name := CASE WHEN d.path ~ '^nvme_storage/ckpt-[A-Za-z0-9._-]{1,240}$' THEN split_part(d.path, '/', 2) END;
        IF name IS NOT NULL AND gpuagent_store.own_export(name, d.uid::uuid)
            AND NOT EXISTS (SELECT FROM gpuagent.checkpoint c WHERE c.uid = d.uid OR c.exported_path = d.path)
        THEN
            CONTINUE WHEN NOT gpuagent_store.mend_latest(name, NULL::text) OR NOT d.due
                OR NOT gpuagent_store.lease_folder(d.path::text, true);
            -- Who imports it has a lease until its commit: with ours in hand, look once more.
            CONTINUE WHEN EXISTS (SELECT FROM gpuagent.checkpoint c WHERE c.uid = d.uid OR c.exported_path = d.path)
                OR gpuagent_store.remove_export(name, d.uid::uuid) <> 'removed';
        END IF;
        DELETE FROM gpuagent_store.discard x WHERE x.uid = d.uid;
        result := result + 1;
    END LOOP;
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent_store.discard_exports() IS
    'removes exports of deleted checkpoints whose grace is over, except what latest names while there is no other one, what somebody reads under a lease, and what others wrote. Under the lock of publish_key()';

CREATE FUNCTION gpuagent_store.maintain_exports() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.sweep_tree(false);
    IF NOT gpuagent_store.take_lock(gpuagent_store.publish_key(), false, false) THEN
        RETURN 0;
    END IF;
    RETURN gpuagent_store.replay_exports() + gpuagent_store.discard_exports();
END
$$;
COMMENT ON FUNCTION gpuagent_store.maintain_exports() IS
    'task of the maintenance worker: sweeps private folders of the dead, replays the journal, removes exports of deleted checkpoints';

CREATE FUNCTION gpuagent_store.check_exports() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text;
    k record;
    latest text;
    result bigint := 0;
BEGIN
    PERFORM gpuagent_store.sweep_tree(true);
    PERFORM gpuagent_store.take_lock(gpuagent_store.publish_key(), true, false);
    PERFORM gpuagent_store.replay_exports();
    FOR name IN SELECT e FROM gpuagent_store.list_exports() e LOOP
        SELECT c.id, c.uid INTO k FROM gpuagent.checkpoint c WHERE c.exported_path = 'nvme_storage/' || name;
        -- One that is not ours may be on its way here.
        IF coalesce(gpuagent_store.tend_export(name, k.uid::uuid, 'quick'::text, CASE WHEN k.id IS NULL THEN 600::bigint ELSE 0::bigint END), 'young')
            NOT IN ('young', 'absent')
        THEN
            UPDATE gpuagent.checkpoint c SET exported_path = NULL, exported_at = NULL WHERE c.id = k.id;
            result := result + 1;
        END IF;
    END LOOP;
    latest := gpuagent_store.latest_name();
    IF NOT EXISTS (SELECT FROM gpuagent_store.list_exports() e WHERE e = latest) THEN
        IF NOT gpuagent_store.mend_latest(latest, NULL::text) THEN
            PERFORM gpuagent_store.point_latest(NULL::text, latest);
        END IF;
    END IF;
    PERFORM gpuagent_store.discard_exports();
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent_store.check_exports() IS
    'task of the maintenance worker when it has started: what maintain_exports() does, and every export whose files are not those of its manifest, by name and size, is put aside; how many were';
