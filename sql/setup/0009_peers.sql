-- Step 9: peers. change, payload and heartbeat are what travels between nodes (doc/formats.md). Facts are written once, by the
-- node that origin names, and are the same on all nodes but for the column xact.
CREATE SEQUENCE gpuagent_store.change_seq;
COMMENT ON SEQUENCE gpuagent_store.change_seq IS 'numbers of the facts that this node writes';
CREATE TABLE gpuagent_store.change (
    origin uuid NOT NULL,
    seq bigint NOT NULL,
    hlc bigint NOT NULL CHECK (hlc >= 0),
    class text COLLATE "C" NOT NULL,
    object text COLLATE "C" NOT NULL,
    part text COLLATE "C" NOT NULL DEFAULT '',
    deleted boolean NOT NULL DEFAULT false,
    version bigint,
    fitness double precision,
    parents bytea NOT NULL DEFAULT '' CHECK (octet_length(parents) % 24 = 0),
    body jsonb NOT NULL DEFAULT '{}',
    parts bytea[],
    xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (origin, seq),
    -- What is larger could be stored, and then never be sent.
    CHECK (pg_column_size(body) <= 67108864 AND pg_column_size(parts) <= 67108864)
);
ALTER TABLE gpuagent_store.change ALTER COLUMN parents SET STORAGE EXTERNAL;
CREATE INDEX change_key ON gpuagent_store.change (class, object, part, hlc);
CREATE INDEX change_hlc ON gpuagent_store.change (hlc);
CREATE INDEX change_xact ON gpuagent_store.change (xact);
COMMENT ON TABLE gpuagent_store.change IS 'facts: what each node wrote about each key, once and for all; replicated to peers';
COMMENT ON COLUMN gpuagent_store.change.hlc IS 'hybrid logical clock: milliseconds since 1970 times 65536, and a counter; one per transaction of the origin';
COMMENT ON COLUMN gpuagent_store.change.class IS 'agent, config, weight or strategy; with object and part the key';
COMMENT ON COLUMN gpuagent_store.change.part IS 'the layer of weights, else empty';
COMMENT ON COLUMN gpuagent_store.change.parents IS 'facts of the key that its writer knew as heads: 24 bytes each, origin and seq';
COMMENT ON COLUMN gpuagent_store.change.parts IS 'state and memory of an agent, as raw bytes; hashes of the weights and biases of a layer';
COMMENT ON COLUMN gpuagent_store.change.xact IS 'transaction that wrote the row on this node; not replicated';

-- No unique key, as in the store: writers of common content would wait for each other.
CREATE TABLE gpuagent_store.payload (
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    origin uuid NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('chunk', 'node', 'tensor')),
    nbytes bigint,
    dtype text COLLATE "C" NOT NULL,
    shape bigint[],
    data bytea NOT NULL CHECK (octet_length(data) <= 1048576)
);
ALTER TABLE gpuagent_store.payload ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX payload_hash ON gpuagent_store.payload (hash, origin);
COMMENT ON TABLE gpuagent_store.payload IS 'contents of tensors that facts refer to, by hash; replicated to peers';
COMMENT ON COLUMN gpuagent_store.payload.nbytes IS 'of a node or tensor: raw bytes below it';
COMMENT ON COLUMN gpuagent_store.payload.dtype IS 'of a chunk: of the tensor for which it was published, for better compression';
COMMENT ON COLUMN gpuagent_store.payload.data IS 'raw bytes of a chunk, children of a node, root of a tensor';

-- Written by its node only, each gpuagent.heartbeat_interval; received_at is not replicated.
CREATE TABLE gpuagent_store.heartbeat (
    node uuid PRIMARY KEY,
    n bigint NOT NULL CHECK (n > 0),
    sent_at timestamptz NOT NULL,
    acks jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(acks) = 'object'),
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON TABLE gpuagent_store.heartbeat IS 'newest sign of life of each node; replicated to peers';
COMMENT ON COLUMN gpuagent_store.heartbeat.n IS 'number of the beat';
COMMENT ON COLUMN gpuagent_store.heartbeat.acks IS 'by node: the last beat that came from it, all before which is on the sender: n, sent_at by that node''s clock, received_at by the sender''s';
COMMENT ON COLUMN gpuagent_store.heartbeat.received_at IS 'when it was taken in, or sent by this node';

-- What only this node knows.
CREATE TABLE gpuagent_store.site (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    origin uuid NOT NULL,
    system_identifier bigint NOT NULL,
    database oid NOT NULL,
    files text COLLATE "C" NOT NULL,
    problem text COLLATE "C" CHECK (problem IN ('copy', 'old', 'clock')),
    doubted_files text COLLATE "C",
    doubted_at timestamptz,
    replaced uuid,
    followed pg_snapshot,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE gpuagent_store.site IS 'one row when this database is a node: its name among nodes, the server and database it was given to, and how far facts were followed';
COMMENT ON COLUMN gpuagent_store.site.files IS 'files_identity() when this database was made the node, or its peers last confirmed that it still is';
COMMENT ON COLUMN gpuagent_store.site.problem IS 'why nothing may be written: copy: its files are others, and peers have not confirmed that it is the node; old: peers know more of this node than it does; clock: it is ahead';
COMMENT ON COLUMN gpuagent_store.site.doubted_files IS 'other files that the maintenance worker found, since doubted_at: beats after that confirm them';
COMMENT ON COLUMN gpuagent_store.site.replaced IS 'name of this node before new_incarnation()';
CREATE TABLE gpuagent_store.head (
    class text COLLATE "C" NOT NULL,
    object text COLLATE "C" NOT NULL,
    part text COLLATE "C" NOT NULL,
    origin uuid NOT NULL,
    seq bigint NOT NULL,
    hlc bigint NOT NULL,
    winner boolean NOT NULL,
    PRIMARY KEY (class, object, part, origin, seq)
);
COMMENT ON TABLE gpuagent_store.head IS 'facts of a key that no later one has superseded; winner: what the tables have';
CREATE TABLE gpuagent_store.waiting (
    class text COLLATE "C" NOT NULL,
    object text COLLATE "C" NOT NULL,
    part text COLLATE "C" NOT NULL,
    hlc bigint NOT NULL,
    problem text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (class, object, part)
);
COMMENT ON TABLE gpuagent_store.waiting IS 'keys that could not be brought to what their facts say yet, and why; tried again each time';
CREATE TABLE gpuagent_store.stability (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    candidate pg_snapshot NOT NULL,
    beats jsonb NOT NULL,
    stable pg_snapshot,
    origins uuid[],
    pruned pg_snapshot,
    last_seq bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE gpuagent_store.stability IS 'one row: which facts all peers are known to have';
COMMENT ON COLUMN gpuagent_store.stability.candidate IS 'what was here at some beat; stable when all peers have the beats of that time';
COMMENT ON COLUMN gpuagent_store.stability.beats IS 'by node, the beat after which all of its facts that candidate sees are there';
COMMENT ON COLUMN gpuagent_store.stability.stable IS 'facts of these origins that it sees are on all peers';
COMMENT ON COLUMN gpuagent_store.stability.pruned IS 'keys of facts that it sees are in prunable, or need not be';
COMMENT ON COLUMN gpuagent_store.stability.last_seq IS 'this node has written a fact of this number, which may have been removed since';
CREATE TABLE gpuagent_store.prunable (
    class text COLLATE "C" NOT NULL,
    object text COLLATE "C" NOT NULL,
    part text COLLATE "C" NOT NULL,
    looked_at timestamptz NOT NULL,
    buried boolean NOT NULL DEFAULT false,
    PRIMARY KEY (class, object, part)
);
CREATE INDEX prunable_order ON gpuagent_store.prunable (buried, looked_at);
COMMENT ON TABLE gpuagent_store.prunable IS 'keys that have, or will have, facts which can be removed';
COMMENT ON COLUMN gpuagent_store.prunable.buried IS 'all that is left is a tombstone, of the time looked_at';
CREATE TABLE gpuagent_store.strategy (
    class text COLLATE "C" PRIMARY KEY,
    strategy text COLLATE "C" NOT NULL,
    priority uuid[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE gpuagent_store.strategy IS 'strategies that set_conflict_strategy() has set on any node, as far as they were followed';
CREATE TABLE gpuagent.peer (
    peer text COLLATE "C" PRIMARY KEY CHECK (gpuagent_store.valid_name(peer)),
    origin uuid NOT NULL UNIQUE,
    subscription text COLLATE "C" NOT NULL UNIQUE,
    slot text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE gpuagent.peer IS 'nodes that this one subscribes to; the connection string is in the subscription, which only superusers see';
COMMENT ON COLUMN gpuagent.peer.slot IS 'replication slot on the peer';

CREATE TRIGGER apply_once BEFORE INSERT ON gpuagent_store.change FOR EACH ROW EXECUTE FUNCTION gpuagent_store.apply_once();
CREATE TRIGGER apply_once BEFORE INSERT ON gpuagent_store.payload FOR EACH ROW EXECUTE FUNCTION gpuagent_store.apply_once();
CREATE TRIGGER take_beat BEFORE INSERT OR UPDATE ON gpuagent_store.heartbeat FOR EACH ROW EXECUTE FUNCTION gpuagent_store.take_beat();
ALTER TABLE gpuagent_store.heartbeat ENABLE REPLICA TRIGGER take_beat;
ALTER TABLE gpuagent_store.change ENABLE REPLICA TRIGGER apply_once;
CREATE TRIGGER lose_fact AFTER DELETE ON gpuagent_store.change FOR EACH ROW EXECUTE FUNCTION gpuagent_store.lose_fact();
ALTER TABLE gpuagent_store.change ENABLE REPLICA TRIGGER lose_fact;
ALTER TABLE gpuagent_store.payload ENABLE REPLICA TRIGGER apply_once;
