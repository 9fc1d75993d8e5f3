-- Step 1: the tables. They belong to the caller of setup() and are not members of the extension, so that
-- pg_dump carries their rows, indexes, policies and added columns. Steps are append-only.

-- The store: immutable rows named by their SHA-256, without unique keys on hash (writers of a common chunk would
-- deadlock or wait for each other's whole transaction). A duplicate is harmless: readers take any.
CREATE TABLE gpuagent_store.chunk (
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    nbytes integer NOT NULL CHECK (nbytes BETWEEN 1 AND 1048576),
    codec smallint NOT NULL DEFAULT 0,
    width smallint NOT NULL DEFAULT 1,
    crc integer NOT NULL,
    data bytea NOT NULL CHECK (octet_length(data) BETWEEN 1 AND 1048576)
);
ALTER TABLE gpuagent_store.chunk ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX chunk_hash ON gpuagent_store.chunk (hash);
COMMENT ON TABLE gpuagent_store.chunk IS 'content-addressed pieces of at most 1 MiB of raw bytes';
COMMENT ON COLUMN gpuagent_store.chunk.nbytes IS 'raw bytes';
COMMENT ON COLUMN gpuagent_store.chunk.codec IS '0: data is raw; 1: byte-shuffled by width, then zstd';
COMMENT ON COLUMN gpuagent_store.chunk.width IS 'bytes of an element, the stride of the shuffle';
COMMENT ON COLUMN gpuagent_store.chunk.crc IS 'CRC-32C of the raw bytes, which every reader checks; the hash is checked by verification';

CREATE TABLE gpuagent_store.node (
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    nbytes bigint NOT NULL,
    children bytea NOT NULL CHECK (octet_length(children) BETWEEN 32 AND 2048 AND octet_length(children) % 32 = 0)
);
ALTER TABLE gpuagent_store.node ALTER COLUMN children SET STORAGE PLAIN;
CREATE INDEX node_hash ON gpuagent_store.node (hash);
COMMENT ON TABLE gpuagent_store.node IS 'inner nodes of tensors: up to 64 child hashes, in order';

CREATE TABLE gpuagent_store.tensor (
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    dtype text COLLATE "C" NOT NULL,
    shape bigint[] NOT NULL,
    nbytes bigint NOT NULL CHECK (nbytes >= 0),
    root bytea NOT NULL CHECK (octet_length(root) = 32)
);
CREATE INDEX tensor_hash ON gpuagent_store.tensor (hash);
COMMENT ON TABLE gpuagent_store.tensor IS 'immutable tensors: dtype, shape and the root of their chunks';

-- Agents
CREATE TABLE gpuagent.agent (
    id text COLLATE "C" PRIMARY KEY CHECK (gpuagent_store.valid_name(id)),
    state gpuagent.agent_state,
    memory gpuagent.agent_state,
    generation bigint NOT NULL DEFAULT 0,
    fitness double precision CHECK (fitness <> 'NaN'),
    metadata jsonb NOT NULL DEFAULT '{}',
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    origin uuid
);
CREATE INDEX agent_generation_fitness ON gpuagent.agent (generation, fitness DESC NULLS LAST);
COMMENT ON TABLE gpuagent.agent IS 'agents as they are now; history lives in checkpoints and swarm versions';
COMMENT ON COLUMN gpuagent.agent.fitness IS 'NULL: not evaluated; -Infinity: failed; NaN is refused';

-- Knowledge graphs
CREATE TABLE gpuagent.graph (
    graph text COLLATE "C" PRIMARY KEY CHECK (gpuagent_store.valid_name(graph)),
    dim bigint,
    metric text,
    node_index text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE gpuagent.graph IS 'knowledge graphs; dim, when set, is the dimension of every node''s embedding';
CREATE TABLE gpuagent.graph_node (
    graph text COLLATE "C" NOT NULL REFERENCES gpuagent.graph ON DELETE CASCADE,
    id text COLLATE "C" NOT NULL CHECK (gpuagent_store.valid_name(id)),
    embedding gpuagent.embedding,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (graph, id)
);
COMMENT ON TABLE gpuagent.graph_node IS 'nodes of knowledge graphs';
CREATE TABLE gpuagent.graph_edge (
    graph text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL,
    edge_type text COLLATE "C" NOT NULL DEFAULT '',
    weight double precision NOT NULL DEFAULT 1,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (graph, source, target, edge_type),
    FOREIGN KEY (graph, source) REFERENCES gpuagent.graph_node ON DELETE CASCADE,
    FOREIGN KEY (graph, target) REFERENCES gpuagent.graph_node ON DELETE CASCADE
);
CREATE INDEX graph_edge_target ON gpuagent.graph_edge (graph, target);
COMMENT ON TABLE gpuagent.graph_edge IS 'typed, weighted, directed edges of knowledge graphs';

-- Swarms
CREATE TABLE gpuagent.swarm (
    swarm text COLLATE "C" PRIMARY KEY CHECK (gpuagent_store.valid_name(swarm)),
    keep_versions bigint NOT NULL DEFAULT 10 CHECK (keep_versions >= 1),
    current bigint NOT NULL DEFAULT 0,
    version_xact xid8,
    version_at timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE gpuagent.swarm IS 'swarms; current is the newest version, 0 before the first';
COMMENT ON COLUMN gpuagent.swarm.version_xact IS 'with version_at: the transaction that made the current version, one version per transaction';
CREATE TABLE gpuagent.swarm_version (
    swarm text COLLATE "C" NOT NULL REFERENCES gpuagent.swarm ON DELETE CASCADE,
    version bigint NOT NULL,
    tensor bytea NOT NULL,
    step bigint,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (swarm, version)
);
COMMENT ON TABLE gpuagent.swarm_version IS 'versions of swarms, each one tensor of the store';

-- Experts and weights
CREATE TABLE gpuagent.expert (
    expert text COLLATE "C" PRIMARY KEY CHECK (gpuagent_store.valid_name(expert)),
    domain text,
    parameter_count bigint,
    learning_rate double precision,
    architecture jsonb,
    metadata jsonb NOT NULL DEFAULT '{}',
    version bigint NOT NULL DEFAULT 0,
    oldest bigint NOT NULL DEFAULT 1,
    version_xact xid8,
    version_at timestamptz,
    activation_count bigint NOT NULL DEFAULT 0,
    success_rate double precision,
    memory_usage bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE gpuagent.expert IS 'experts: configuration, running state and the newest version of their weights';
COMMENT ON COLUMN gpuagent.expert.oldest IS 'versions below it are pruned: what is left of their layers is not all of them, and is not loaded';
CREATE TABLE gpuagent.weight_version (
    expert text COLLATE "C" NOT NULL REFERENCES gpuagent.expert ON DELETE CASCADE,
    layer text COLLATE "C" NOT NULL CHECK (gpuagent_store.valid_name(layer)),
    version bigint NOT NULL,
    weights bytea,
    biases bytea,
    deleted boolean NOT NULL DEFAULT false,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    origin uuid,
    PRIMARY KEY (expert, layer, version),
    CHECK (deleted = (weights IS NULL))
);
COMMENT ON TABLE gpuagent.weight_version IS
    'versions of layers; a layer without a row at a version inherits the newest one below; deleted marks its end';

-- Runs and metrics
CREATE TABLE gpuagent.run (
    run text COLLATE "C" PRIMARY KEY CHECK (gpuagent_store.valid_name(run)),
    metadata jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'running',
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE gpuagent.run IS 'training or evolution runs';
CREATE TABLE gpuagent.metric (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    run text COLLATE "C" NOT NULL REFERENCES gpuagent.run ON DELETE CASCADE,
    key text COLLATE "C" NOT NULL CHECK (gpuagent_store.valid_name(key)),
    step bigint NOT NULL DEFAULT 0,
    value double precision NOT NULL,
    object text COLLATE "C",
    recorded_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX metric_run_key_step ON gpuagent.metric (run, key, step);
COMMENT ON TABLE gpuagent.metric IS 'values of metrics by run, key and step; NaN and infinities are values';

-- Checkpoints. Contents are intervals of checkpoint ids: a row belongs to checkpoint c when
-- from_seq <= c AND (to_seq IS NULL OR c < to_seq), and c covers the row's object. A row with to_seq NULL is open: it
-- is what the newest checkpoint that covers its object has. digest is SHA-256 over the other columns, so that damage
-- is found and rows compare without being read.
CREATE TABLE gpuagent.checkpoint (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    uid uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    parent bigint,
    label text COLLATE "C",
    kind text NOT NULL DEFAULT 'manual' CHECK (kind IN ('manual', 'auto', 'safety', 'import')),
    run text COLLATE "C",
    step bigint,
    status text NOT NULL DEFAULT 'valid' CHECK (status IN ('valid', 'damaged', 'incomplete')),
    objects text[] COLLATE "C",
    metadata jsonb NOT NULL DEFAULT '{}',
    agents bigint,
    nodes bigint,
    edges bigint,
    metrics bigint,
    raw_bytes bigint NOT NULL DEFAULT 0,
    new_bytes bigint NOT NULL DEFAULT 0,
    horizon xid8,
    xid_source text,
    verified_at timestamptz,
    verified_level text,
    exported_path text,
    exported_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    origin uuid
);
COMMENT ON TABLE gpuagent.checkpoint IS 'checkpoints; objects NULL means everything; order is that of id, never of a clock';
COMMENT ON COLUMN gpuagent.checkpoint.parent IS 'the newest checkpoint when this one was made; it may have been deleted since';
COMMENT ON COLUMN gpuagent.checkpoint.agents IS 'with nodes, edges and metrics: how many it has; NULL: not covered, or not known of an import';
COMMENT ON COLUMN gpuagent.checkpoint.raw_bytes IS 'bytes of the contents: rows as stored, tensors as they are without compression';
COMMENT ON COLUMN gpuagent.checkpoint.new_bytes IS 'bytes of the rows that this checkpoint wrote; tensors were in the store already';
COMMENT ON COLUMN gpuagent.checkpoint.horizon IS
    'rows written by transactions below it are contained as they were; xid_source names what counted it';
CREATE TABLE gpuagent.checkpoint_alias (
    alias text COLLATE "C" PRIMARY KEY CHECK (gpuagent_store.valid_name(alias)),
    checkpoint bigint NOT NULL REFERENCES gpuagent.checkpoint ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX checkpoint_alias_checkpoint ON gpuagent.checkpoint_alias (checkpoint);
COMMENT ON TABLE gpuagent.checkpoint_alias IS 'movable names of checkpoints; an alias keeps its checkpoint from being removed';
CREATE TABLE gpuagent.checkpoint_item (
    object text COLLATE "C" NOT NULL,
    part text COLLATE "C" NOT NULL,
    from_seq bigint NOT NULL,
    to_seq bigint CHECK (from_seq < to_seq),
    version bigint,
    tensor bytea,
    biases bytea,
    body jsonb,
    digest bytea NOT NULL GENERATED ALWAYS AS (gpuagent_store.digest(object, part, version, tensor, biases, body)) STORED,
    PRIMARY KEY (object, part, from_seq)
);
CREATE UNIQUE INDEX checkpoint_item_open ON gpuagent.checkpoint_item (object, part) WHERE to_seq IS NULL;
CREATE INDEX checkpoint_item_tensor ON gpuagent.checkpoint_item (tensor) WHERE tensor IS NOT NULL;
CREATE INDEX checkpoint_item_biases ON gpuagent.checkpoint_item (biases) WHERE biases IS NOT NULL;
COMMENT ON TABLE gpuagent.checkpoint_item IS
    'contents of checkpoints but agents, nodes, edges and metric values: swarms, layers, expert configurations and states, graphs, runs';
COMMENT ON COLUMN gpuagent.checkpoint_item.object IS 'swarm:NAME, expert:NAME, graph:NAME or metrics';
COMMENT ON COLUMN gpuagent.checkpoint_item.part IS
    'empty for a swarm or a graph; config, state or layer:NAME of an expert; run:NAME of metrics';
COMMENT ON COLUMN gpuagent.checkpoint_item.tensor IS 'hash of a swarm''s matrix or of a layer''s weights; biases is that of its biases';
COMMENT ON COLUMN gpuagent.checkpoint_item.body IS 'the other columns; floating-point values as text, so that all bits survive';
CREATE TABLE gpuagent_store.checkpoint_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    last bigint NOT NULL DEFAULT 0,
    last_import bigint NOT NULL DEFAULT 0
);
INSERT INTO gpuagent_store.checkpoint_head DEFAULT VALUES;
COMMENT ON TABLE gpuagent_store.checkpoint_head IS
    'one row, locked by whoever makes or removes checkpoints; last is the newest checkpoint ever made, last_import the newest import';
CREATE TABLE gpuagent_store.checkpoint_agent (
    id text COLLATE "C" NOT NULL,
    from_seq bigint NOT NULL,
    to_seq bigint CHECK (from_seq < to_seq),
    state gpuagent.agent_state,
    memory gpuagent.agent_state,
    generation bigint NOT NULL,
    fitness double precision,
    metadata jsonb NOT NULL,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    origin uuid,
    digest bytea NOT NULL GENERATED ALWAYS AS (gpuagent_store.digest(
        id, state, memory, generation, fitness, metadata, version, created_at, updated_at, origin)) STORED,
    PRIMARY KEY (id, from_seq)
);
CREATE UNIQUE INDEX checkpoint_agent_open ON gpuagent_store.checkpoint_agent (id) WHERE to_seq IS NULL;
COMMENT ON TABLE gpuagent_store.checkpoint_agent IS 'agents of checkpoints, as intervals of checkpoint ids';
CREATE TABLE gpuagent_store.checkpoint_node (
    graph text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    from_seq bigint NOT NULL,
    to_seq bigint CHECK (from_seq < to_seq),
    embedding gpuagent.embedding,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    digest bytea NOT NULL GENERATED ALWAYS AS (gpuagent_store.digest(graph, id, embedding, metadata, created_at)) STORED,
    PRIMARY KEY (graph, id, from_seq)
);
CREATE UNIQUE INDEX checkpoint_node_open ON gpuagent_store.checkpoint_node (graph, id) WHERE to_seq IS NULL;
COMMENT ON TABLE gpuagent_store.checkpoint_node IS 'graph nodes of checkpoints, as intervals of checkpoint ids';
CREATE TABLE gpuagent_store.checkpoint_edge (
    graph text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL,
    edge_type text COLLATE "C" NOT NULL,
    from_seq bigint NOT NULL,
    to_seq bigint CHECK (from_seq < to_seq),
    weight double precision NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    digest bytea NOT NULL GENERATED ALWAYS AS (gpuagent_store.digest(
        graph, source, target, edge_type, weight, metadata, created_at)) STORED,
    PRIMARY KEY (graph, source, target, edge_type, from_seq)
);
CREATE UNIQUE INDEX checkpoint_edge_open ON gpuagent_store.checkpoint_edge (graph, source, target, edge_type) WHERE to_seq IS NULL;
COMMENT ON TABLE gpuagent_store.checkpoint_edge IS 'graph edges of checkpoints, as intervals of checkpoint ids';
CREATE TABLE gpuagent_store.checkpoint_metric (
    id bigint NOT NULL,
    from_seq bigint NOT NULL,
    to_seq bigint CHECK (from_seq < to_seq),
    run text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    step bigint NOT NULL,
    value double precision NOT NULL,
    object text COLLATE "C",
    recorded_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    digest bytea NOT NULL GENERATED ALWAYS AS (gpuagent_store.digest(
        id, run, key, step, value, object, recorded_at, created_at)) STORED,
    PRIMARY KEY (id, from_seq)
);
CREATE UNIQUE INDEX checkpoint_metric_open ON gpuagent_store.checkpoint_metric (id) WHERE to_seq IS NULL;
COMMENT ON TABLE gpuagent_store.checkpoint_metric IS 'metric values of checkpoints, as intervals of checkpoint ids';
