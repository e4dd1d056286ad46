// Bridge delivers CloudEvents from Kafka to HTTP sinks: one consumer group per
// subscription, one POST per event. An offset is committed only after its event
// was answered with 2xx, or Kafka has acknowledged its dead letter.
//
//	bridge                       serve
//	bridge init --topic T --sink URL  print a configuration with comments; see Your own topics
//	bridge check                 read BRIDGE_CONFIG, print it with defaults filled in; exit 0, or 2 with every mistake
//	bridge schema                the JSON Schema of the configuration, for editors
//	bridge explain --event FILE  which subscriptions get an event, and why the others do not; exit 1 if it is malformed
//	bridge dlq list              dead letters, one line each
//	bridge dlq show -offset N    one dead letter in full
//	bridge dlq watch             dead letters, then each new one, until it is stopped
//	bridge pause, bridge resume  hold a subscription back on all bridges, let it go on; see Pauses
//	bridge offsets accept        let a subscription go on from offsets that the bridge has not sealed
//	bridge skip                  set one blocking event aside, as a dead letter; see Repairs
//	bridge --version             version, revision and Go release
//
// Admin API on the public port:
//
//	GET  /subscriptions, /subscriptions/{name}     state; per partition committed, end, lag, in flight, blocking event
//	POST /subscriptions/{name}/pause, .../resume   {"reason": TEXT, "by": NAME}, or no body; writes need the token of
//	                                               ADMIN_TOKEN_FILE, and are refused without one unless
//	                                               LISTEN_ADDR is a loopback address such as 127.0.0.1:8001
//	POST /subscriptions/{name}/offsets/accept      {"by": NAME, "partition": N}; partition may be left out
//	POST /subscriptions/{name}/skip                {"by": NAME, "partition": N, "offset": N, "reason": TEXT}
//	GET  /healthz, /readyz on both ports; GET /metrics on the operator port
//
// Settings, all from the environment:
//
//	LISTEN_ADDR              public address                               :8001
//	PORT                     set by serverless platforms; wins as :PORT
//	OPS_ADDR                 operator address                             :9001
//	SHUTDOWN_GRACE           time for posts in flight after a stop        25s
//	LOG_FORMAT               auto, json or text                           auto
//	LOG_LEVEL                debug (a line per delivery), info, warn, error  info
//	MAX_CONNECTIONS          to the public port; idle and slow ones make room  512
//	OPS_PPROF                profiles under /debug/pprof/                 false
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
//	BRIDGE_CONFIG            file with subscriptions in YAML              the two below
//	NOTIFIER_URL             sink of group notification-service           http://localhost:8002/
//	AUDITOR_URL              sink of group audit-service                  http://localhost:8003/
//	WEBHOOK_SECRET_FILE      secrets that sign the posts of these two     none
//	SINK_ALLOW               link-local and metadata addresses or         none
//	                         prefixes that sinks may have, comma-separated
//	BRIDGE_STATE_KEY_FILE    keys that seal commits, one a line, the first  none
//	                         seals, all are accepted; re-read when it changes
//	ADMIN_TOKEN_FILE         bearer token for all of the admin API, one   reads are open,
//	                         a line; re-read when it changes              writes see above
//	ADMIN_HOSTS              names of the admin API, comma-separated,     none
//	                         beside localhost and any address
//	ADMIN_URL                for the commands under Pauses and Repairs; a   http://localhost:8001
//	                         repair goes to the bridge that has the
//	                         partition; or --admin URL
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
// With BRIDGE_STATE_KEY_FILE the metadata of every commit is sealed for its group,
// topic, partition and offset. Without it, whoever may commit for a group can make
// events vanish. A stored offset with no seal or a wrong one raises
// taskwire_bridge_unsealed_offsets_total and a log line, and its map of finished
// events is ignored. A subscription with "exhausted: deadletter" goes on from
// there; one with "exhausted: block" delivers the partition only when an operator
// accepts the offset. That is also so for a group that was used without the key.
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
