-- Experts and the versions of their weights: inheritance, deletion, pruning; every error.

-- All layers of one transaction are one version; a layer that is not written is inherited.
BEGIN;
SELECT store_weights('e', 'a', '[1]', '[0.5]', '{"init": "xavier"}'), store_weights('e', 'b', '[[1,2],[3,4]]'), store_weights('e', 'c', 'F16:7');
COMMIT;
SELECT store_weights('e', 'b', '[[5]]');
SELECT store_weights('e', 'd', '[9]', '[8]');
CREATE FUNCTION layers(expert text, version bigint DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format('%s@%s=%s%s', l.layer, l.version, substr(tensor_bytes(l.weights)::text, 3), '/' || substr(tensor_bytes(l.biases)::text, 3)), ' ')
    FROM gpuagent.load_weights($1, version => $2) l
$$;
SELECT v, layers('e', v) FROM generate_series(0, 4) v;
SELECT layers('e') AS newest;
SELECT layer, version, dtype(weights), shape(weights), biases::real[] FROM load_weights('e');
SELECT layer, version, weights::real[] FROM load_weights('e', 'b');
SELECT layer, version, weights::real[] FROM load_weights('e', 'b', 1);
SELECT layer, metadata FROM gpuagent.weight_version WHERE expert = 'e' ORDER BY 1, version;
SELECT expert, version FROM retrieve_expert_config('e');

-- Written twice in a transaction, the last one holds; metadata that is not given again stays. Biases that are not given are none.
BEGIN;
SELECT store_weights('e', 'a', '[2]', '[3]', '{"k": 1}'), store_weights('e', 'a', '[4]');
SELECT version, weights::real[], biases IS NULL AS no_biases FROM load_weights('e', 'a');
SELECT metadata FROM gpuagent.weight_version WHERE expert = 'e' AND layer = 'a' AND version = 4;
COMMIT;
-- Rolled back in part or as a whole.
BEGIN;
SELECT store_weights('e', 'a', '[5]');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT store_weights('e', 'a', '[5]');
ROLLBACK TO s;
SELECT store_weights('e', 'c', '[5]');
SAVEPOINT s;
SELECT store_weights('e', 'b', '[6]');
RELEASE s;
COMMIT;
SELECT layers('e', 4), layers('e');

-- Deletion ends a layer from a new version on; a later store begins it again.
SELECT delete_weights('e', 'b');
SELECT layers('e', 5) AS before, layers('e') AS after;
SELECT delete_weights('e', 'b') AS again, delete_weights('e', 'absent'), delete_weights('absent'), delete_weights(NULL);
SELECT version FROM retrieve_expert_config('e');
SELECT count(*) FROM gpuagent.expert WHERE expert = 'absent';
SELECT store_weights('e', 'b', '[7]');
SELECT layers('e', 6), layers('e');
BEGIN;
SELECT store_weights('e', 'x', '[1]'), delete_weights('e', 'x'), delete_weights('e', 'a');
SELECT layers('e');
SELECT store_weights('e', 'a', '[1]');
SELECT layers('e');
ROLLBACK;
SELECT delete_weights('e') AS all_layers;
SELECT layers('e', 7), layers('e', 8) IS NULL AS none, count(*) FROM load_weights('e');

-- Compare and set. Each layer of the transaction may name the version that it found.
BEGIN;
SELECT store_weights('e', 'a', '[1]', expected_version => 8), store_weights('e', 'b', '[2]', expected_version => 8);
SELECT store_weights('e', 'c', '[3]', expected_version => 9);
COMMIT;
SELECT error_of($$SELECT store_weights('e', 'a', '[1]', expected_version => 8)$$);
SELECT error_of($$SELECT store_weights('e', 'a', '[1]', expected_version => 10)$$);
SELECT error_of($$SELECT store_weights('new', 'a', '[1]', expected_version => 1)$$);
SELECT store_weights('new', 'a', '[1]', expected_version => 0);
SELECT error_of($$SELECT store_weights('new', 'a', '[1]', expected_version => 0)$$);

-- Configuration and running state: what is not given stays; weights do not touch them.
SELECT store_expert_config('e', 'text', 1000, 0.001, '{"layers": 2}', '{"by": "x"}');
SELECT store_expert_config('e', learning_rate => 0.01);
SELECT domain, parameter_count, learning_rate, architecture, metadata, version, activation_count, success_rate, memory_usage FROM retrieve_expert_config('e');
SELECT store_expert_state('e', 5, 0.5);
SELECT store_expert_state('e', memory_usage => 77);
SELECT store_weights('e', 'a', '[1]');
SELECT domain, parameter_count, learning_rate, version, activation_count, success_rate, memory_usage FROM retrieve_expert_config('e');
SELECT store_expert_config('fresh');
SELECT version, metadata, activation_count FROM retrieve_expert_config('fresh');
SELECT count(*) FROM retrieve_expert_config('absent') UNION ALL SELECT count(*) FROM retrieve_expert_config(NULL);
SELECT error_of($$SELECT store_expert_state('absent', 1)$$), error_of($$SELECT store_expert_state(NULL, 1)$$);
SELECT error_of($$SELECT store_expert_config(NULL)$$), error_of($$SELECT store_expert_config('')$$);

-- Errors.
SELECT error_of($$SELECT store_weights('e', 'a', NULL)$$);
SELECT error_of($$SELECT store_weights(NULL, 'a', '[1]')$$), error_of($$SELECT store_weights('e', NULL, '[1]')$$);
SELECT error_of($$SELECT store_weights('', 'a', '[1]')$$), error_of($$SELECT store_weights('e', E'\x01', '[1]')$$);
SELECT error_of($$SELECT * FROM load_weights('e', version => 1, checkpoint => 1)$$);
SELECT error_of($$SELECT * FROM load_weights('e', checkpoint => 9223372036854775807)$$);
SELECT count(*) FROM load_weights('absent') UNION ALL SELECT count(*) FROM load_weights(NULL);
SELECT count(*) FROM load_weights('e', 'absent');
SELECT count(*) FROM load_weights('e', version => -1);
SELECT error_of($$SELECT prune_weights('e', 0)$$), error_of($$SELECT prune_weights('e', NULL)$$);
SELECT error_of($$SELECT prune_weights('absent', 1)$$), error_of($$SELECT prune_weights(NULL, 1)$$);
SELECT delete_expert('e'), delete_expert('e'), delete_expert(NULL), delete_expert('new'), delete_expert('fresh');
SELECT count(*) FROM gpuagent.weight_version WHERE expert IN ('e', 'new');

-- Pruning is exact: 60 versions of 6 layers, written, deleted and written again at random; for every number of versions kept, each of them
-- reads as before, no row of those that went was needed, and no row that stayed is idle.
SELECT setseed(0.25);
DO $$
BEGIN
    FOR v IN 1 .. 60 LOOP
        FOR l IN 1 .. 6 LOOP
            IF v = 1 AND l = 1 OR random() < 0.15 THEN
                PERFORM gpuagent.store_weights('p', 'layer' || l, ARRAY[v, l]::gpuagent.swarm_tensor(I32));
            ELSIF random() < 0.05 THEN
                PERFORM gpuagent.delete_weights('p', 'layer' || l);
            END IF;
        END LOOP;
        COMMIT;
    END LOOP;
END
$$;
CREATE TABLE prune_all AS SELECT * FROM gpuagent.weight_version WHERE expert = 'p';
SELECT count(*) > 40 AS rows, bool_or(deleted) AS deletions, max(version) > 20 AS versions FROM prune_all;
CREATE FUNCTION pruned(keep bigint) RETURNS TABLE (kept bigint, same boolean, counted boolean, minimal boolean) LANGUAGE plpgsql AS $$
DECLARE
    newest bigint := (SELECT version FROM gpuagent.expert WHERE expert = 'p');
    removed bigint;
BEGIN
    DELETE FROM gpuagent.weight_version WHERE expert = 'p';
    INSERT INTO gpuagent.weight_version SELECT * FROM prune_all;
    CREATE TEMP TABLE was AS SELECT v, layers('p', v) AS l FROM generate_series(greatest(newest - keep + 1, 0), newest) v;
    removed := prune_weights('p', keep);
    kept := keep;
    same := NOT EXISTS (SELECT FROM was WHERE l IS DISTINCT FROM layers('p', v));
    counted := removed = (SELECT count(*) FROM prune_all) - (SELECT count(*) FROM gpuagent.weight_version WHERE expert = 'p');
    -- every row that stayed is the newest of its layer at some version that stayed, and no deletion is older than all of them
    minimal := NOT EXISTS (
        SELECT FROM gpuagent.weight_version w WHERE w.expert = 'p' AND NOT EXISTS (
            SELECT FROM was WHERE w.version = (SELECT max(n.version) FROM gpuagent.weight_version n
                                               WHERE n.expert = 'p' AND n.layer = w.layer AND n.version <= was.v)
                AND NOT (w.deleted AND w.version <= newest - keep + 1)));
    DROP TABLE was;
    RETURN NEXT;
END
$$;
SELECT bool_and(same) AS same, bool_and(counted) AS counted, bool_and(minimal) AS minimal, count(*)
FROM generate_series(1, (SELECT version FROM gpuagent.expert WHERE expert = 'p') + 2) k, pruned(k);
SELECT prune_weights('p', 1) > 0 AS first, prune_weights('p', 1) AS again;
SELECT delete_expert('p');
DROP TABLE prune_all;
DROP FUNCTION pruned, layers;
