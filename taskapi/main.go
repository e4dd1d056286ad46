// Command taskapi is the Task API: REST in, CloudEvents out.
//
// A change of a task and its event are one transaction, in one SQLite file or in
// PostgreSQL, and a 2xx is sent only after that transaction is on disk. A relay then publishes
// the events to Kafka, in order per task. While Kafka is down changes are still
// accepted and their events wait, up to OUTBOX_LIMIT; beyond it changes are
// answered with 503 and Retry-After until the outbox shrinks.
//
// If the database cannot be opened because of missing permissions, a full disk or
// a read-only file system, the program starts anyway: it is not ready, reports why
// in its log and in /readyz, answers 503, and tries again every second.
//
//	POST  /tasks                {"title", "owner_id"?}             201
//	GET   /tasks                ?status=&owner_id=&limit=&cursor=  200
//	GET   /tasks/{id}                                              200
//	PATCH /tasks/{id}           {"title"?, "status"?, "owner_id"?} 200
//	POST  /tasks/{id}/complete                                     200
//	GET   /openapi.json, /docs, /healthz, /readyz
//
// The operator port serves /healthz, /readyz, /metrics and /log/level, where a PUT
// from this machine sets LOG_LEVEL until the end; the body is the level. The API is
// described in openapi.yaml, which /openapi.json serves and /docs shows.
//
// taskapi --help prints this text, taskapi --version what was built, taskapi key
// makes and shows keys.
//
// # Environment
//
//	LISTEN_ADDR                 :8000            public address; PORT, when set, wins with :PORT
//	OPS_ADDR                    :9000            operator address
//	SHUTDOWN_GRACE              25s              for requests and events in progress after a stop
//	SHUTDOWN_QUIET              0s               after a stop, take requests until none comes for so long
//	LOG_FORMAT                  auto             auto, json or text
//	LOG_LEVEL                   info             debug, info, warn or error
//	MAX_CONNECTIONS             512              to the public port; idle and slow ones make room
//	OPS_PPROF                   false            /debug/pprof/ on the operator port
//	OTEL_...                    off              traces; see below
//	DATABASE_URL                sqlite:tasks.db  path of the database file, whose folder must exist, or
//	                                             postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full
//	DATABASE_COMPACT            false            rewrite a database of an earlier version at start; see Space
//	WAIT_FOR_LOCK               false            when another taskapi has the database file, wait for its end,
//	                                             not ready, in place of exit 1: for a replacement that
//	                                             starts while the old process stops
//	PGPASSFILE                                   passwords for PostgreSQL, in the format of .pgpass
//	API_TOKENS_FILE                              one "name token" per line, tokens of 16 characters or
//	                                             more; without it the API is open. See Tokens
//	EVENT_MODE                  structured       how an event becomes a Kafka record: structured or binary
//	                                             (CloudEvents), or envelope, for consumers that read
//	                                             event_id, event_type, occurred_at, data and metadata
//	EVENT_ENCODING              json             json, or avro: the data of events is Avro; see Avro
//	SCHEMA_REGISTRY_URL                          where the schema is registered, for avro
//	SCHEMA_REGISTRY_USERNAME                     for basic authentication
//	SCHEMA_REGISTRY_PASSWORD_FILE                read for each request
//	SCHEMA_REGISTRY_CA_FILE                      the system's roots when unset
//	EVENT_SIGNING_KEY_FILE                       Ed25519 private key (PKCS #8, PEM) that signs each event;
//	                                             see Signatures
//	OUTBOX_LIMIT                1000000          events that may wait for Kafka
//	OUTBOX_RETENTION            1h               how long the row of a published event is kept
//	KAFKA_BOOTSTRAP_SERVERS     localhost:9092   host:port, several with commas
//	KAFKA_TOPIC                 task-events
//	KAFKA_CREATE_TOPICS         false            create the topic when it is missing
//	KAFKA_TOPIC_PARTITIONS      1                of a topic that is created
//	KAFKA_TLS                   false
//	KAFKA_TLS_CA_FILE                            the system's roots when unset
//	KAFKA_TLS_CERT_FILE                          client certificate
//	KAFKA_TLS_KEY_FILE                           key of the client certificate
//	KAFKA_SASL_MECHANISM                         PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
//	KAFKA_SASL_USERNAME
//	KAFKA_SASL_PASSWORD_FILE
//	KAFKA_SASL_INSECURE         false            PLAIN without TLS, password in clear text
//
// # PostgreSQL
//
// Any number of replicas may share a database; each keeps up to 12 sessions. All
// of them take requests. One of them publishes, the one that holds an advisory
// lock; when it ends or stands still another goes on within 6 seconds. Connect to
// the primary, directly or through a pooler in session mode. The role needs CREATE
// on the database, or a schema taskapi that belongs to it. A server or role with
// fsync=off or synchronous_commit=off is refused. While the database cannot be
// reached the program waits, is not ready, and answers 503; a 503 leaves open
// whether the change was made, and a repeat with the same Idempotency-Key finds out.
//
// taskapi migrate sqlite:PATH moves the tasks of a file, with the events that wait
// and the idempotency keys, into the empty database that DATABASE_URL names: all
// or nothing. Stop the taskapi that uses the file first; the file stays, marked so
// that none is started with it again. If it is interrupted, run it again.
//
// # Avro
//
// With EVENT_ENCODING=avro the value of a record is the event's data in Avro, behind
// the id of its schema in the Schema Registry, and the attributes are in headers
// (EVENT_MODE binary). The schema is registered at start under KAFKA_TOPIC-value with
// compatibility BACKWARD; when the registry refuses it the program ends with its
// reason. Until the registry has answered, changes are accepted and their events wait,
// as while Kafka is down. Events that were made before, or that the schema cannot
// carry, are published as JSON. SCHEMA_REGISTRY_URL includes the path of the
// API, such as /apis/ccompat/v7 for Apicurio.
//
// Every 5 seconds it is checked that the registry still has the schema under its id.
// One that lost its data gets the schema again, and events its new id:
// taskwire_schema_lost_total counts that. Records that are in Kafka keep the old id;
// the bridge reads them by the fingerprint in their dataschema, other readers only
// when the registry's data is restored.
//
// # Backup
//
// taskapi backup FILE copies the SQLite database of DATABASE_URL, while a taskapi uses
// it: one state, with every change that was answered before. FILE must not exist; it
// appears whole and on disk or not at all. With - the copy goes to standard output,
// by way of the database's folder. See docs/backup.md.
//
// # Tokens
//
// API_TOKENS_FILE is read again when it changes. While it is empty, missing or
// wrong, no token is accepted and /readyz says so. A file that its group or others
// may write is refused. Refused calls are counted in
// taskwire_auth_failures_total{reason}, logged at most once a second, and answered
// a quarter of a second late.
//
// # Signatures
//
// With EVENT_SIGNING_KEY_FILE each event carries its producer's signature, made in
// the transaction of the change. "taskapi key --new PATH" makes a key, and
// "taskapi key PATH" prints the line that the auditor needs in
// EVENT_VERIFY_KEYS_FILE. The file is read again when it changes; while it cannot be
// used, changes are answered with 503 and /readyz says so. See
// docs/event-signatures.md.
//
// # Space
//
// Rows of published events are deleted after OUTBOX_RETENTION, and pages of the file
// that nothing has used for a minute are given back. A database of an earlier
// version has to be rewritten for that: at the first start when it uses up to
// 32 MiB, else with DATABASE_COMPACT=true. It takes about 10 s and as much free space
// as it uses per GB, and the API is not available meanwhile. Without it, the file
// keeps its size, and what is free in it is used again.
//
// # Traces
//
// Traces are off unless an endpoint is set, or OTEL_TRACES_EXPORTER=otlp. Then spans
// go by OTLP (http/protobuf) to OTEL_EXPORTER_OTLP_ENDPOINT (http://localhost:4318),
// and the other standard variables count: OTEL_EXPORTER_OTLP_HEADERS, _TIMEOUT,
// _COMPRESSION, _CERTIFICATE, _CLIENT_CERTIFICATE, _CLIENT_KEY, each also as
// OTEL_EXPORTER_OTLP_TRACES_...; OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
// OTEL_TRACES_SAMPLER (parentbased_always_on) and _SAMPLER_ARG, OTEL_BSP_SCHEDULE_DELAY,
// _MAX_QUEUE_SIZE, _MAX_EXPORT_BATCH_SIZE, OTEL_SDK_DISABLED. A collector that does
// not answer loses spans and holds nothing up; a stop waits 2 s for it at most.
//
// # Stopping
//
// SIGTERM and SIGINT: readiness off, requests in progress answered, waiting
// events published, all within SHUTDOWN_GRACE; the remaining events are published
// after the next start. A second signal ends the process at once; nothing that
// was answered is lost.
//
// Exit status: 0 after a stop, 1 after a fault (the last line names it), 2 for
// invalid settings (each is named; nothing was opened).
package main

import (
	_ "embed"

	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/taskapi/app"
)

// source holds the manual above, for --help.
//
//go:embed main.go
var source string

func main() { process.Main("taskapi", source, app.FromEnv, open, app.Key, app.Migrate(), app.Backup()) }
