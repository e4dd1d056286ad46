-- The head is locked by whoever appends: its row orders the auditors.
CREATE TABLE audit.head (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    entries      bigint NOT NULL DEFAULT 0,
    version_gaps bigint NOT NULL DEFAULT 0
);
INSERT INTO audit.head DEFAULT VALUES;

-- key is the SHA-256 of source and id, leaf that of the line with its line feed;
-- line has none. task, type and actor are hashes that narrow a search.
CREATE TABLE audit.entries (
    seq   bigint PRIMARY KEY,
    key   bytea NOT NULL CHECK (octet_length(key) = 32),
    leaf  bytea NOT NULL CHECK (octet_length(leaf) = 32),
    task  bigint,
    type  bigint NOT NULL,
    actor bigint,
    line  bytea NOT NULL
);
CREATE UNIQUE INDEX entries_key ON audit.entries (key);
CREATE INDEX entries_task ON audit.entries (task, seq) WHERE task IS NOT NULL;
CREATE INDEX entries_type ON audit.entries (type, seq);
CREATE INDEX entries_actor ON audit.entries (actor, seq) WHERE actor IS NOT NULL;

-- The highest version of each task; task is the SHA-256 of its source and id.
CREATE TABLE audit.tasks (
    task bytea PRIMARY KEY CHECK (octet_length(task) = 32),
    last bigint NOT NULL
);

-- Against accidents: whoever owns the tables can drop the trigger.
CREATE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only: % of audit.entries is refused', TG_OP;
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.entries
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

-- Tiles of the Merkle tree and its checkpoint, under their C2SP paths. All of it but
-- the signatures can be made again from the entries.
CREATE TABLE audit.tiles (
    path text PRIMARY KEY,
    data bytea NOT NULL
);
ALTER TABLE audit.tiles ALTER data SET STORAGE EXTERNAL;
