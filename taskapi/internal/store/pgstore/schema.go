package pgstore

// schema is ours alone, so that the database may hold what else it likes.
const schema = "taskapi"

// migrations are applied in order, each once. A migration that was released is
// never edited, and leaves in place what the version before uses.
//
// unpublished holds the ids of outbox rows that Kafka has not acknowledged: to mark
// a row deletes eight bytes there instead of writing the event again. Its rows live
// for milliseconds, so it is vacuumed often.
//
// The ids come from a sequence without a cache: with one, sessions would draw from
// ranges of their own and the ids of a task would not be in order.
var migrations = []string{`
CREATE TABLE taskapi.task (
  id         uuid PRIMARY KEY,
  title      text NOT NULL,
  status     text NOT NULL,
  owner_id   uuid,
  version    bigint NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
) WITH (fillfactor = 85);
CREATE INDEX task_by_status ON taskapi.task (status, id);
CREATE INDEX task_by_owner ON taskapi.task (owner_id, id) WHERE owner_id IS NOT NULL;

CREATE SEQUENCE taskapi.outbox_id CACHE 1;
CREATE TABLE taskapi.outbox (
  id         bigint PRIMARY KEY,
  task_id    uuid NOT NULL,
  event      bytea NOT NULL,
  created_at timestamptz NOT NULL
);
CREATE TABLE taskapi.unpublished (id bigint PRIMARY KEY)
  WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = -1);

CREATE TABLE taskapi.idempotency (
  key         bytea PRIMARY KEY, -- of any bytes, which text is not
  fingerprint bytea NOT NULL,
  answer      text NOT NULL,
  created_at  timestamptz NOT NULL
);
CREATE INDEX idempotency_by_age ON taskapi.idempotency (created_at);

CREATE TABLE taskapi.filled_from (fingerprint text NOT NULL, at timestamptz NOT NULL); -- by taskapi migrate
`}
