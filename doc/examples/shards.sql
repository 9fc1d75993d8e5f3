-- Three servers that share a table by the hash of its id (doc/shards.md). Run on each of them, with its own number:
--
--   psql -v shard=0 -v dbname=postgres -v host_0=a -v port_0=5432 -v host_1=b -v port_1=5432 -v host_2=c -v port_2=5432 -f shards.sql
--
-- Each server holds one partition and sees those of the others as foreign tables, so that a client may ask any of them.
\set ON_ERROR_STOP on
\if :{?user}
\else
\set user :USER
\endif
BEGIN;
CREATE EXTENSION IF NOT EXISTS gpuagent;
CREATE EXTENSION IF NOT EXISTS postgres_fdw;

CREATE TABLE sharded_agent (
	id bigint NOT NULL,
	generation integer NOT NULL DEFAULT 0,
	state gpuagent.agent_state,
	e gpuagent.embedding(64)
) PARTITION BY HASH (id);

-- The partition that lives here: the only one that has an index and a key.
SELECT format('CREATE TABLE sharded_agent_%1$s PARTITION OF sharded_agent (PRIMARY KEY (id)) FOR VALUES WITH (MODULUS 3, REMAINDER %1$s)', :shard) \gexec
SELECT format('CREATE INDEX ON sharded_agent_%s USING gpuknn (e gpuagent.embedding_l2_ops)', :shard) \gexec

-- The others. "extensions" is what lets our operators and types travel; the estimate of the other server is what knows its
-- index. Rows come in fetches of 100, the next one only when it is needed.
SELECT format('CREATE SERVER shard_%s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %L, port %L, dbname %L, extensions %L, '
	'use_remote_estimate %L, async_capable %L, fetch_size %L)', n, host, port, :'dbname', 'gpuagent', 'true', 'true', '100')
FROM (VALUES (0, :'host_0', :'port_0'), (1, :'host_1', :'port_1'), (2, :'host_2', :'port_2')) s(n, host, port) WHERE n <> :shard \gexec
SELECT format('CREATE USER MAPPING FOR CURRENT_USER SERVER shard_%s OPTIONS (user %L)', n, :'user')
FROM generate_series(0, 2) n WHERE n <> :shard \gexec
SELECT format('CREATE FOREIGN TABLE sharded_agent_%1$s PARTITION OF sharded_agent FOR VALUES WITH (MODULUS 3, REMAINDER %1$s) '
	'SERVER shard_%1$s OPTIONS (table_name %2$L)', n, 'sharded_agent_' || n)
FROM generate_series(0, 2) n WHERE n <> :shard \gexec

-- The k nearest rows of each shard, of which the caller takes the k nearest: the LIMIT travels, too.
CREATE FUNCTION nearest_agents(query gpuagent.embedding, k integer) RETURNS TABLE (id bigint, distance double precision)
LANGUAGE sql STABLE AS $$
	SELECT s.id, s.distance FROM (
		(SELECT a.id, a.e OPERATOR(gpuagent.<->) query AS distance FROM sharded_agent_0 a ORDER BY a.e OPERATOR(gpuagent.<->) query LIMIT k)
		UNION ALL
		(SELECT a.id, a.e OPERATOR(gpuagent.<->) query FROM sharded_agent_1 a ORDER BY a.e OPERATOR(gpuagent.<->) query LIMIT k)
		UNION ALL
		(SELECT a.id, a.e OPERATOR(gpuagent.<->) query FROM sharded_agent_2 a ORDER BY a.e OPERATOR(gpuagent.<->) query LIMIT k)
	) s ORDER BY s.distance, s.id LIMIT k
$$;
COMMIT;
