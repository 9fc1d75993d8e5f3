-- The model's words become nodes of a knowledge graph, near words are joined by edges.
\set QUIET on
\pset footer off
CREATE TEMP TABLE word (row bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, word text NOT NULL);
\copy word (word) FROM 'data/minilm-words.txt'

SELECT gpuagent.store_nodes('words', (SELECT array_agg(word ORDER BY row) FROM word),
	(SELECT weights FROM gpuagent.load_weights('minilm', 'embeddings.word_embeddings.weight'))) AS nodes;

-- For each of the words the five nearest others by cosine distance: 16 million distances.
WITH near AS MATERIALIZED (
	SELECT a.id AS source, b.id AS target, b.distance
	FROM gpuagent.graph_node a CROSS JOIN LATERAL (
		SELECT n.id, n.embedding <=> a.embedding AS distance
		FROM gpuagent.graph_node n
		WHERE n.graph = 'words' AND n.id <> a.id
		ORDER BY n.embedding <=> a.embedding, n.id
		LIMIT 5) b
	WHERE a.graph = 'words' AND b.distance < 0.6)
SELECT gpuagent.store_edges('words', array_agg(source), array_agg(target), array_agg('similar'::text),
	array_agg(1 - distance)) AS edges
FROM near;

\echo 'The neighbourhood of "music":'
SELECT node, hop, round(distance::numeric, 3) AS distance, parent, round(weight::numeric, 3) AS weight
FROM gpuagent.search_knowledge_graph('words',
	(SELECT embedding FROM gpuagent.graph_node WHERE graph = 'words' AND id = 'music'), k => 3, hops => 1)
ORDER BY hop, distance, node
LIMIT 12;
