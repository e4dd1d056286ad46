// Bridge delivers CloudEvents from Kafka to HTTP sinks: one consumer group per
// subscription, one POST per event. An offset is committed only after its event
// was answered with 2xx, or Kafka has acknowledged its dead letter.
//
//	bridge                       serve
//	bridge init --topic T --sink URL  print a configuration with comments; see Your own topics
//	bridge check                 read BRIDGE_CONFIG, print it with defaults filled in; exit 0, or 2 with every mistake
//	bridge schema                the JSON Schema of the configuration, for editors
//	bridge explain --event FILE  which subscriptions get an event, and why the others do not, with --json for
//	                             programs; FILE - is the standard input; exit 2 if there is no event in it
//	bridge dlq list              open dead letters, one line each; see Dead letters
//	bridge dlq show ID           the dead letters of an event, or the one at PARTITION/OFFSET, in full
//	bridge dlq watch             open dead letters, then each new one, until it is stopped
//	bridge dlq redrive           deliver dead letters again
//	bridge dlq ignore            give dead letters up
//	bridge top                   live view of all subscriptions and partitions; one snapshot if it is no terminal
//	bridge pause, bridge resume  hold a subscription back on all bridges, let it go on; see Pauses
//	bridge offsets accept        let a subscription go on from offsets that the bridge has not sealed
//	bridge skip                  set one blocking event aside, as a dead letter; see Repairs
//	bridge --version             version, revision and Go release
//
// Admin API on the public port:
//
//	GET  /subscriptions, /subscriptions/{name}     of the whole group, whichever bridge is asked: state, who paused it and why;
//	                                               per partition committed, end, lag, owner, in flight, blocking event
//	POST /subscriptions/{name}/pause, .../resume   {"reason": TEXT, "by": NAME}, or no body; writes need the token of
//	                                               ADMIN_TOKEN_FILE, and are refused without one unless
//	                                               LISTEN_ADDR is a loopback address such as 127.0.0.1:8001
//	POST /subscriptions/{name}/offsets/accept      {"by": NAME, "partition": N}; partition may be left out
//	POST /subscriptions/{name}/skip                {"by": NAME, "partition": N, "offset": N, "reason": TEXT}
//	GET  /deadletters?subscription=NAME            open letters, a page at a time; also done, payload, limit, after, and a selection
//	POST /deadletters/redrive, /deadletters/ignore {"subscription": NAME, "by": NAME, "select": {...} or "all": true, "dry_run": true,
//	                                               "rate": N, "reason": TEXT}; select has ids, types, reasons, statuses, keys, since, until
//	GET  /deadletters/jobs, /deadletters/jobs/{id} what they do and did; ?wait=N waits up to N seconds for the end
//	DELETE /deadletters/jobs/{id}                  cancels one
//	GET  /, /console/..., /events                  the web console, see Console
//	GET, POST /handshake/SECRET                    a sink agrees to deliveries, see below; no token
//	GET  /healthz, /readyz on both ports; GET /metrics on the operator port
//	GET, PUT /log/level                            on the operator port: LOG_LEVEL until the end, PUT from this machine only
//
// Settings, all from the environment:
//
//	LISTEN_ADDR              public address                               :8001
//	PORT                     set by serverless platforms; wins as :PORT
//	OPS_ADDR                 operator address                             :9001
//	SHUTDOWN_GRACE           time for posts in flight after a stop        25s
//	SHUTDOWN_QUIET           take requests until none comes for so long   0s
//	LOG_FORMAT               auto, json or text                           auto
//	LOG_LEVEL                debug (a line per delivery), info, warn, error  info
//	MAX_CONNECTIONS          to the public port; idle and slow ones make room  512
//	OPS_PPROF                profiles under /debug/pprof/                 false
//	OTEL_...                 traces; see below                            off
//	KAFKA_BOOTSTRAP_SERVERS  host:port,...                                localhost:9092
//	KAFKA_TOPIC              of the subscriptions, if BRIDGE_CONFIG       task-events
//	                         names none
//	KAFKA_CREATE_TOPICS      create missing topics                        false
//	KAFKA_TOPIC_PARTITIONS   of topics it creates                         1
//	KAFKA_TLS, KAFKA_TLS_CA_FILE, KAFKA_TLS_CERT_FILE, KAFKA_TLS_KEY_FILE  off
//	KAFKA_SASL_MECHANISM     PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512        none
//	KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD_FILE
//	KAFKA_SASL_INSECURE      PLAIN without TLS, password in clear text    false
//	KAFKA_GROUP_INSTANCE_ID  a killed process that starts again under     the pod's name in
//	                         the same id gets its partitions back at      Kubernetes, else none
//	                         once; without an id they are idle for 10s.
//	                         Each running process needs its own
//	MEMORY_BUDGET            bytes held for all partitions and            a third of the container's
//	                         subscriptions together, such as 256MiB       limit or of GOMEMLIMIT, else 256MiB
//	SCHEMA_REGISTRY_URL      has the schemas of data in Avro; see Avro    none: such events wait
//	SCHEMA_REGISTRY_USERNAME, SCHEMA_REGISTRY_PASSWORD_FILE               none
//	SCHEMA_REGISTRY_CA_FILE  PEM                                          the system's roots
//	EVENT_ENCODING           avro makes SCHEMA_REGISTRY_URL a must        json
//	BRIDGE_CONFIG            file with subscriptions in YAML, re-read     the two below
//	                         when it changes and on SIGHUP
//	NOTIFIER_URL             sink of group notification-service           http://localhost:8002/
//	AUDITOR_URL              sink of group audit-service                  http://localhost:8003/
//	WEBHOOK_SECRET_FILE      secrets that sign the posts of these two     none
//	WEBHOOK_ORIGIN           name of all replicas together in the         bridge.taskwire
//	                         handshake with sinks, see below
//	WEBHOOK_CALLBACK_URL     address of the public port for sinks that    none
//	                         agree later, see below; for one replica
//	SINK_ALLOW               link-local and metadata addresses or         none
//	                         prefixes that sinks may have, comma-separated
//	BRIDGE_STATE_KEY_FILE    keys that seal commits, one a line, the first  none
//	                         seals, all are accepted; re-read when it changes
//	ADMIN_TOKEN_FILE         bearer token for all of the admin API, one   reads are open,
//	                         a line; re-read when it changes              writes see above
//	ADMIN_HOSTS              names of the admin API, comma-separated,     none
//	                         beside localhost and any address
//	CONSOLE                  on, readonly or off                          on
//	CONSOLE_PAYLOADS         show or hide what records hold               show
//	BASE_PATH                path before all others of the console, for   none
//	                         a proxy, such as /bridge
//	TASKAPI_URL              of the console's page Try it                 none: the page is off
//	AUDITOR_URL              of its page Audit, too                       none: the page is off
//	ADMIN_URL                for bridge top, dlq redrive and ignore, and the  http://localhost:8001
//	                         commands under Pauses and Repairs; a repair
//	                         goes to the bridge that has the partition;
//	                         or --admin URL
//
// On a loopback address both ports answer 403 unless they are called localhost or
// by an address, the public one also by a name of ADMIN_HOSTS.
//
// # Your own topics
//
// A subscription with "topic: NAME" reads that topic; several topics fit into one
// bridge, each subscription with a consumer group of its own. Its dead letters go to
// NAME-dlq unless "deadletter: NAME" says otherwise; that topic may not be one that
// the bridge reads.
//
// With "records: wrap" the records need not be CloudEvents. Each becomes one: id is
// TOPIC/PARTITION/OFFSET, source kafka:TOPIC, type kafka.record, subject and
// partitionkey the key if it is printable text, time the record's, data the value.
// datacontenttype is the header content-type if it fits the value, else
// application/json or application/octet-stream. A tombstone has neither data nor
// datacontenttype. traceparent and tracestate carry over; other headers do not.
//
// The file is read again within a few seconds of a change, and at once on SIGHUP.
// Subscriptions that are the same go on undisturbed; others drain, commit, leave
// their group and start with their new settings. A file with a mistake changes
// nothing: the log, GET /subscriptions and taskwire_bridge_config_ok say so.
//
// # Signatures and seals
//
// Posts of a subscription are signed, as Standard Webhooks has it, with
// "signing: {secret_file: PATH}", one whsec_... a line; during a rotation with each
// of them. webhook-id follows from the event's source and id, so it is the same for
// every attempt. "auth: {bearer_file: PATH}" sends the token in the file as
// Authorization: Bearer. Both files are read again when they change. While one is
// empty, missing or wrong, nothing is posted, no event is given up before retry.for,
// and /readyz says so.
//
// A subscription gets the events that pass all of its filters, in the dialects of
// the CloudEvents Subscriptions API, and its types if it has any:
//
//	filters:
//	  - exact: {source: task-api}          # so prefix and suffix; all attributes must match
//	  - any: [{suffix: {type: .created}}, {not: {exact: {actor: robot}}}]    # so all
//	  - sql: EXISTS actor AND (type LIKE 'task.%' OR taskversion IN (1, 2))
//
// An attribute that an event lacks matches nothing. In sql, which is CloudEvents SQL
// 1.0, it is an error, as is text that is no number where one is wanted; EXISTS asks
// first. An expression that fails for an event is false. It is counted in
// taskwire_bridge_filter_errors_total, logged now and then, and shown by bridge
// explain. AND, OR and XOR are equals: use parentheses. NOT takes the next value
// only, and needs parentheses before a comparison.
//
// "mode: structured" posts each event as JSON, unchanged if it was that on Kafka.
// "mode: binary" posts its data as the body and its attributes in percent-encoded
// ce- headers; a signature then covers the data alone. "mode: batch" posts what is
// ready, without waiting for more, as a JSON array in offset order, at most
// "batch: {size: 100, bytes: 512KiB}" and never two events of one key. An answer
// with an array of {"status"}, one for each event, gives each its own outcome; any
// other 200, 201, 202 or 204 accepts all of them. A batch that is refused as a whole
// is posted again in halves, until the event that is refused is alone. Records in
// another CloudEvents format, such as application/cloudevents+avro, are posted as
// they are in the modes structured and auto without types and filters, and malformed
// elsewhere. "mode: auto" is structured, and while the sink says in its answers that it
// takes batches (Accept-Post with application/cloudevents-batch+json, as auditor and
// notifier do), several events that are ready go as one batch. It is the mode of the
// two subscriptions that there are without BRIDGE_CONFIG.
//
// An event whose expirytime
// has passed is not posted: it becomes a dead letter with reason expired, also with
// "exhausted: block". An expirytime that is no RFC 3339 time is passed on and ignored.
//
// "headers: {X-Key: file:PATH, X-Tenant: acme}" are sent with each post. What the
// bridge sets itself, or belongs to a connection, is refused. The content of the
// files is treated like the token above.
//
// "tls: {ca_file: PATH, cert_file: PATH, key_file: PATH, server_name: NAME}" of an
// https sink, all PEM: the authorities that its certificate must be from instead of
// the system's, the certificate that the bridge shows, and the name to look for
// instead of the host. A change of the files ends the connections of before, each
// when its posts have ended. HTTP/2 is used where the sink offers it, TLS 1.2 or
// newer always. A sink that is not who it should be, or does not believe the bridge,
// gets nothing; no event is given up for that before retry.for.
//
// "rate: N" is posts per second of this process, all partitions together. After a
// 429 the subscription posts nothing at all until Retry-After, at most ten times
// retry.max, or the back-off is over: taskwire_bridge_blocked says rate_limited,
// and the attempt does not count against the event. Each replica has its own rate
// and its own pause.
//
// With "handshake: true" the sink is asked first, by OPTIONS as the CloudEvents
// webhook specification has it, with WebHook-Request-Origin: WEBHOOK_ORIGIN and,
// when a rate is set, WebHook-Request-Rate. Until it answers with that origin or *
// in WebHook-Allowed-Origin, the bridge does not join the group, taskwire_bridge_blocked
// says handshake, and /readyz and /subscriptions say why; it is asked again after the
// back-off. Of its WebHook-Allowed-Rate and rate the lower one is in force. It is
// asked again at each start. With WEBHOOK_CALLBACK_URL it may agree later, by a GET
// or POST, with WebHook-Allowed-Rate if it likes, of the address that
// WebHook-Request-Callback names: WEBHOOK_CALLBACK_URL, handshake/ and a secret of
// this process, which can be used for nothing else and needs no token. An address
// of before a restart is answered with 404.
//
// With BRIDGE_STATE_KEY_FILE the metadata of every commit is sealed for its group,
// topic, partition and offset. Without it, whoever may commit for a group can make
// events vanish. A stored offset with no seal or a wrong one raises
// taskwire_bridge_unsealed_offsets_total and a log line, and its map of finished
// events is ignored. A subscription with "exhausted: deadletter" goes on from
// there; one with "exhausted: block" delivers the partition only when an operator
// accepts the offset. That is also so for a group that was used without the key.
//
// # Avro
//
// Data of the content type application/avro, behind a byte 0 and the id of its schema
// as Confluent's serializers write it, is posted as the same data in JSON, with
// datacontenttype application/json and the schema's attribute jsonSchema as dataschema.
// "data: as-is" posts it as it came. Filters see the attributes of the record.
//
// Schemas are kept in memory. While the registry does not answer, events with known
// schemas go on; one without waits with its key, whatever "retry" and "exhausted" say:
// taskwire_bridge_blocked has the reason schema. An event is a dead letter (malformed)
// when the registry has denied its id for 10 seconds, when its schema cannot be used
// (no Avro, longer than 256 KiB, references to others), or when its data does not fit.
// An event of the Task API names the fingerprint of its schema: no other is used for
// it, and when the registry has another under the id, or none, the version that
// dataschema names is looked at, for a minute.
//
// # Dead letters
//
// Which letters are dealt with is the state of a consumer group of its own,
// GROUP.dlq, on the dead-letter topic, so that Kafka's tools show open ones as lag.
// Its offset is the oldest open letter; a map in its metadata has what is done
// above. While letters of other subscriptions are on the topic, the lag counts those
// that are newer than the oldest open one, too.
//
//	bridge dlq list [--subscription NAME] [--done] [selection]
//	bridge dlq redrive --subscription NAME selection|--all [--dry-run] [--rate N] [--detach]
//	bridge dlq ignore --subscription NAME selection|--all --reason TEXT [--dry-run]
//
// A selection is any of --id (an event's, or PARTITION/OFFSET), --type, --reason (with
// ignore: --dlq-reason), --status, --key, each of which may be repeated, --since and
// --until (a time, or how long ago). list, show and watch read Kafka; redrive and ignore
// ask a running bridge, by ADMIN_URL or --admin, and show its progress. Ctrl-C cancels:
// posts in flight finish and are marked. A lost connection does not. Whatever ends a
// redrive, the same command goes on with what is open.
//
// A redrive posts to the same sink, in order per key, with the subscription's present
// settings. A letter that is refused or exhausted again becomes a new one, with
// dlq-redrives one higher. While the sink is down or wrong, letters stay as they are,
// and after five minutes without an answer the redrive stops. It is refused while the
// subscription is paused. At most one redrive or ignore of a subscription runs at a
// time, in whichever bridge.
//
// A commit's metadata holds some 24,000 letters, in any pattern, from the oldest open
// one; in long runs, any number. When it is full the command says so: deal with the
// oldest ones first.
// What a bridge has in flight it writes down for the others as the metadata of
// offsets of a group that has no members and that nothing else depends on: the
// subscription's group with .status at its end. For that, a Kafka that checks
// rights must let the bridge Read and Describe this group, too.
//
// # Pauses
//
//	bridge pause --subscription audit --reason 'the auditor moves'
//	bridge resume --subscription audit
//
// A pause holds for all bridges and outlives them: it is a record of the compacted
// topic taskwire-control, which each bridge reads before it delivers and follows
// from then on. It is answered when all in-sync brokers have it; posts in flight
// finish. A sink that answers 410 pauses its subscription in the same way. The
// topic is created with KAFKA_CREATE_TOPICS; where it does not exist nothing can
// be paused. Whoever may write it can pause and resume. The key is the name of
// the subscription: bridges that share a Kafka and such a name share the pause.
//
// # Console
//
// The public port serves pages for browsers: the flow of events, subscriptions, dead
// letters, the audit log and a page for trials. It follows the rules of the admin
// API. With ADMIN_TOKEN_FILE a form asks for the token; a session lasts 12 hours at
// most, in this process, and ends with its token. Without, everybody who reaches the
// port may look, and only a bridge on a loopback address lets pages change something,
// shows payloads, and asks the auditor and the Task API on behalf of the browser.
//
// GET /events sends steps of events as server-sent events: "steps" with an array of
// steps, "gap" when some were left out; Last-Event-ID resumes. Steps are those of this
// bridge, the latest 8192, and gone when it ends.
//
// # Repairs
//
// Both commands call the admin API of the running bridge that has the partition,
// with the token of ADMIN_TOKEN_FILE, and say who you are: --by NAME, or USER.
// What they do is logged with that name and the caller's address.
//
//	bridge offsets accept --subscription audit [--partition 3]
//	bridge skip --subscription audit --partition 3 --offset 1234 --reason 'the sink will never take it'
//
// Before you accept an offset, find out who committed it. When in doubt stop the
// bridge, set the group back (kafka-consumer-groups.sh --reset-offsets) and accept
// that: what is delivered again is recognised by its id.
//
// Only an event that has failed, or holds its partition back, can be skipped. It
// becomes a dead letter with reason skipped, dlq-skipped-by and
// dlq-skipped-reason, and the sink gets an event of type taskwire.bridge.skipped
// in its place, if the subscription's filters let that type pass.
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
// SIGTERM or SIGINT: the bridge turns not ready and starts no new posts; posts in
// flight finish, finished offsets are committed, the groups are left; exit 0. A
// second signal kills. Exit 1: an error while running. Exit 2: wrong settings,
// each of them named.
package main

import (
	_ "embed"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/process"
)

//go:embed main.go
var source string

func main() { process.Main("bridge", source, app.FromEnv, app.New, app.Commands()...) }
