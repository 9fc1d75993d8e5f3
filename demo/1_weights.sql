-- A real model's weights become an expert: one layer per tensor of the file.
\set QUIET on
\pset footer off
SELECT * FROM gpuagent.import_safetensors('minilm', path => 'incoming/minilm-extract.safetensors');
SELECT gpuagent.store_expert_config('minilm', domain => 'sentence embeddings', parameter_count => 1840128, architecture =>
	'{"model": "all-MiniLM-L6-v2", "part": "4,000 words, one attention matrix", "hidden_size": 384}') AS expert_version;
SELECT gpuagent.store_expert_state('minilm', activation_count => 1, success_rate => 1) \g /dev/null
SELECT layer, gpuagent.dtype(weights), gpuagent.shape(weights), pg_size_pretty(gpuagent.nbytes(weights)) AS size
FROM gpuagent.load_weights('minilm') ORDER BY layer;
