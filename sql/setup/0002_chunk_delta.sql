-- Step 2: chunks stored as what differs from another one. Node-local: whoever copies a store takes contents, by hash.
CREATE TABLE gpuagent_store.chunk_delta (
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    nbytes integer NOT NULL CHECK (nbytes BETWEEN 1 AND 1048576),
    base bytea NOT NULL CHECK (octet_length(base) = 32),
    leaves integer NOT NULL CHECK (leaves BETWEEN 1 AND 65535),
    mode smallint NOT NULL DEFAULT 0,
    codec smallint NOT NULL DEFAULT 0,
    width smallint NOT NULL DEFAULT 1,
    crc integer NOT NULL,
    data bytea NOT NULL CHECK (octet_length(data) BETWEEN 1 AND 1048576)
);
ALTER TABLE gpuagent_store.chunk_delta ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX chunk_delta_hash ON gpuagent_store.chunk_delta (hash);
CREATE INDEX chunk_delta_base ON gpuagent_store.chunk_delta (base);
COMMENT ON TABLE gpuagent_store.chunk_delta IS
    'chunks stored as what differs from another chunk of this node; the hash is that of the content, as in chunk';
COMMENT ON COLUMN gpuagent_store.chunk_delta.nbytes IS 'raw bytes of the chunk, and of its base';
COMMENT ON COLUMN gpuagent_store.chunk_delta.base IS 'hash of the chunk that it differs from, a row of chunk, which must stay as long as this row';
COMMENT ON COLUMN gpuagent_store.chunk_delta.leaves IS 'which leaves of 64 KiB differ: bit i stands for leaf i';
COMMENT ON COLUMN gpuagent_store.chunk_delta.mode IS '0: data is those leaves, in order; 1: those leaves XORed with the base''s';
COMMENT ON COLUMN gpuagent_store.chunk_delta.codec IS '0: data is raw; 1: byte-shuffled by width, then zstd';
COMMENT ON COLUMN gpuagent_store.chunk_delta.width IS 'bytes of an element, the stride of the shuffle';
COMMENT ON COLUMN gpuagent_store.chunk_delta.crc IS
    'CRC-32C of base, leaves (2 bytes, little-endian) and the leaves as they are in the content, which every reader checks';

