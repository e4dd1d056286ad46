// Auditor is a sink that remembers: it takes CloudEvents over HTTP and appends
// each one once to an append-only log. An event that was answered with 2xx is on
// disk.
//
//	POST /                   one CloudEvent, structured or binary, or a batch
//	                         201 {"seq":n,"duplicate":false}  a new entry, after fsync
//	                         200 {"seq":n,"duplicate":true}   already in the log, nothing written
//	                         401  no good signature or token, when secrets or tokens are set
//	                         409  same source and id, other content: an alarm, nothing written
//	                         503  cannot store now; Retry-After says when to try again
//	OPTIONS /                the CloudEvents webhook handshake
//	GET /entries             ?task_id= &type= &actor= &after=SEQ &limit= (100, at most 1000)
//	GET /entries/{seq}       one line of the log
//	GET /entries/tail        server-sent events: each new entry as it becomes durable, with the
//	                         same filters; Last-Event-ID or after=SEQ continues behind that entry
//	GET /tasks/{id}/history  the versions of a task, gaps and steps back flagged
//	GET /checkpoint          the signed root of the log (C2SP tlog-checkpoint)
//	GET /key                 its verifier keys, one a line; see auditor key
//	GET /tile/...            the hashes of the log (C2SP tlog-tiles); they never change
//	GET /proof/{seq}         the proof that the log has the entry (C2SP tlog-proof)
//	GET /openapi.json        this API as an OpenAPI 3.1 document
//	GET /healthz, /readyz    on both ports; GET /metrics on the operator port
//	GET, PUT /log/level      on the operator port: LOG_LEVEL until the end; PUT from
//	                         this machine only, the body is the level
//
// For each new entry it logs exactly:
//
//	AUDIT: task.created - task_id=<task_id>
//
// Subcommands:
//
//	auditor cat [PATH]       prints the log, oldest line first; PATH defaults to
//	                         AUDIT_LOG_PATH, or the log is in AUDIT_DATABASE_URL. It takes no
//	                         lock: the auditor may run
//	auditor verify [--since OLD_CHECKPOINT] [--key VKEY]... [--event-keys FILE [--signed-from SEQ]] [PATH]
//	                         reads all of the log: says ok, or what is wrong and
//	                         where, with exit 1. --since also proves that nothing
//	                         that an older checkpoint covers was changed. VKEY is a
//	                         verifier key, or a file of them; without one the keys
//	                         are those of the signing key. With --event-keys, a file
//	                         as for EVENT_VERIFY_KEYS_FILE, each line of a source in it
//	                         must carry that source's signature; lines before SEQ may
//	                         be unsigned. It and the next ones read
//	                         AUDIT_DATABASE_URL without a PATH when that is set
//	auditor prove [--key VKEY]... ID|SEQ [PATH]
//	                         prints the proof of an entry, by event id or number
//	auditor verify-proof --key VKEY [--witnesses FILE] PROOF [LINE]
//	                         checks a proof for the line in the file LINE, or on
//	                         stdin; or all lines of an export. It needs no log
//	auditor export [--from SEQ] [--to SEQ] [--key VKEY]... [PATH]
//	                         prints JSON lines {"seq","line","proof"}
//	auditor key [PATH]       prints the verifier key of the log: keep it elsewhere
//	auditor key --new [ORIGIN]
//	                         prints a new signing key, for AUDIT_SIGNING_KEY_FILE.
//	                         ORIGIN names the log, such as audit.example.com/tasks
//	auditor migrate [PATH]   moves a log from its file into AUDIT_DATABASE_URL, with its
//	                         checkpoint, and proves that both have the same root. No
//	                         auditor may use either. Interrupted, it goes on where it
//	                         was. The file stays; use its key (PATH.key) from then on
//	auditor reconcile --tasks URL [--token-file FILE] [--settle 10s] [PATH]
//	                         compares the versions of all tasks of the Task API with
//	                         the log and names what is missing in the log or ahead of
//	                         the API; both may change meanwhile. Exit 1 when they
//	                         differ after the settle time. FILE holds a token alone
//	auditor --version        version, revision and Go release
//
// The log is a file of JSON lines with one writer: a second auditor refuses to
// start, or waits for the first to end (WAIT_FOR_LOCK). If a crash cut the last write short, the next start moves the remains to
// AUDIT_LOG_PATH.torn-<offset>-<time> and logs it. Damage anywhere else is an
// error that names the byte, and the auditor does not start. AUDIT_LOG_PATH.acked
// holds the length up to which posts were answered: a log that ends or is torn
// below it is damaged as well. Remove that file together with the log to begin a
// new one. AUDIT_LOG_PATH.index is a folder with an index of the log: it may be
// removed while the auditor is stopped, and is made again at the next start, which
// then takes minutes for millions of entries; /readyz says how far it is. With the
// index a start reads only the end of the log; the rest is checked in the
// background, and damage there ends the auditor with status 1.
//
// A log of AUDIT_SEGMENT_BYTES is sealed: it becomes read-only and gets the number
// of its first entry as a suffix, AUDIT_LOG_PATH.000000000001, and the log goes on
// in a new AUDIT_LOG_PATH. All of them are the log: a segment that is missing,
// renamed or changed in length keeps the auditor from starting, which names it. To
// read all of it use auditor cat, or cat audit.log.0* audit.log. Never rename,
// rotate or cut the log while the auditor runs: it exits with status 1 before the
// next answer. The log may be neither a symbolic link nor
// writable by every user. An audit log of the
// original Python system has another format and is refused: rename it, or set
// AUDIT_LOG_PATH to a new file.
//
// The lines are the leaves of a Merkle tree: its tiles (tile/) and its signed root
// (checkpoint) are beside the log. A log that is shorter than its checkpoint, or
// whose last lines are not the ones that were signed, is refused, and the first
// bad line named; the other lines are compared in the background, and one that
// differs ends the auditor with exit 1. Lost tiles are made again. The key is made
// beside the log on first start (AUDIT_LOG_PATH.key, mode 0600): keep it off the
// volume with AUDIT_SIGNING_KEY_FILE, where the first line signs and the keys on
// further lines are still accepted. docs/audit-format.md has all formats, and what
// to do with a log that is refused.
//
// When the disk is full, posts are answered 503 until there is room. After a
// failed fsync nothing more is acknowledged and the auditor exits with status 1;
// the next start reads what the disk really holds.
//
// When the log cannot be opened because permission or space is missing, or its
// file system is read-only, the auditor starts but is not ready: it logs the
// reason, reports it in /readyz, answers 503, and retries every second. A folder
// that does not exist is an error: create it first.
//
// With AUDIT_DATABASE_URL the log is in PostgreSQL (15 or newer), in the schema
// audit, which the auditor makes. The lines and answers are the same, and any
// number of auditors may run at once and be killed at any moment. fsync=off and
// synchronous_commit=off are refused. The password may come from the file that
// PGPASSFILE names. AUDIT_SIGNING_KEY_FILE is required: all of them sign one log,
// one at a time, and the tree is in the database, too. While the database is down the auditor waits, is not ready
// and answers 503. It exits with status 1 when the unique index on the events is
// missing, or when entries that it acknowledged are gone. A standby that takes over
// must have confirmed the commits (synchronous_standby_names), else it may lack some.
//
// Settings, all from the environment:
//
//	AUDIT_LOG_PATH       the log; its folder must exist                  audit.log
//	AUDIT_SEGMENT_BYTES  length at which a file of the log is sealed     1GiB
//	AUDIT_DATABASE_URL   postgres://..., in place of the file            none
//	WAIT_FOR_LOCK        when another auditor has the log, wait for its  false
//	                     end, not ready, in place of exit 1: for a
//	                     replacement that starts while the old one stops
//	AUDIT_SIGNING_KEY_FILE
//	                     keys that sign checkpoints, see above           beside the log
//	AUDIT_CHECKPOINT_URL
//	                     a second place for checkpoints: http(s) with    none
//	                     PUT and GET, or a folder
//	AUDIT_WITNESS_FILE   "witness NAME VKEY URL" a line: they cosign     none
//	                     checkpoints (C2SP tlog-witness)
//	WEBHOOK_SECRET_FILE  secrets for signed posts, one whsec_... a line  none
//	SINK_TOKENS_FILE     tokens for posts, one "name token" a line       none
//	AUDIT_READ_TOKENS_FILE
//	                     tokens for reading, one "name token" a line     none
//	EVENT_VERIFY_KEYS_FILE
//	                     keys of producers that sign their events, one
//	                     "source ed25519:KEY" a line                     none
//	LISTEN_ADDR          public address                                  :8003
//	PORT                 set by serverless platforms; wins as :PORT
//	OPS_ADDR             operator address                                :9003
//	SHUTDOWN_GRACE       time for requests in progress after a stop      25s
//	SHUTDOWN_QUIET       take requests until none comes for so long      0s
//	LOG_FORMAT           auto, json or text; auto is text on a terminal  auto
//	LOG_LEVEL            debug, info, warn or error                      info
//	MAX_CONNECTIONS      to the public port; idle and slow ones make room  512
//	OPS_PPROF            profiles under /debug/pprof/ (operator port)    false
//	OTEL_...             traces; see below                               off
//
// With neither file anyone who reaches the port may post, which is said at the
// start and by taskwire_sink_open. With both, either is enough.
//
// Signatures are those of Standard Webhooks (webhook-id, webhook-timestamp,
// webhook-signature) over a structured event or a batch. Any secret of the file
// may sign, and the two clocks may differ by 5 minutes. The binary form cannot be
// signed, because a signature does not cover its attributes. A token has at least
// 16 characters and comes as Authorization: Bearer TOKEN, or as access_token in
// the query.
//
// With AUDIT_READ_TOKENS_FILE every GET of entries and histories needs such a token
// in Authorization. Without it whoever reaches the port can read the log.
//
// With EVENT_VERIFY_KEYS_FILE an event whose source has a key there must carry that
// source's signature (taskapi key prints the line); any other is answered 403,
// counted in taskwire_audit_signature_failures_total, and not stored. The bridge
// goes on trying. docs/event-signatures.md has more.
//
// The files are read again when they change. While one is empty, missing or wrong,
// nothing that it held is accepted and /readyz says so. A file that its group or
// others may write is refused. Refused posts are counted, logged at most once a
// second, and answered a quarter of a second late.
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
// SIGTERM or SIGINT: readiness off, requests in progress finish, exit 0; a second
// signal kills. Exit 1: an error while starting or running. Exit 2: wrong
// settings, all named.
package main

import (
	_ "embed"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/process"
)

//go:embed main.go
var source string

func main() {
	process.Main("auditor", source, app.FromEnv, app.New, app.Cat(), app.Migrate(), app.Verify(), app.Prove(), app.VerifyProof(), app.Export(), app.Key(), app.Reconcile())
}
