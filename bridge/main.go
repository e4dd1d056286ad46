// Bridge delivers CloudEvents from Kafka to HTTP sinks: one consumer group per
// subscription, one POST per event. An offset is committed only after its event
// was answered with 2xx, or Kafka has acknowledged its dead letter.
//
//	bridge                       serve
//	bridge check                 read BRIDGE_CONFIG, print it with defaults filled in; exit 0, or 2 with every mistake
//	bridge explain --event FILE  which subscriptions get an event, and why the others do not; exit 1 if it is malformed
//	bridge dlq list              dead letters, one line each
//	bridge dlq show -offset N    one dead letter in full
//	bridge dlq watch             dead letters, then each new one, until it is stopped
//	bridge --version             version, revision and Go release
//
// Admin API on the public port:
//
//	GET  /subscriptions, /subscriptions/{name}     state; per partition committed, end, lag, in flight, blocking event
//	POST /subscriptions/{name}/pause, .../resume   from this machine, or with the token of ADMIN_TOKEN_FILE
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
//	KAFKA_TOPIC              topic of the events                          task-events
//	KAFKA_CREATE_TOPICS      create missing topics                        false
//	KAFKA_TOPIC_PARTITIONS   of topics it creates                         1
//	KAFKA_TLS, KAFKA_TLS_CA_FILE, KAFKA_TLS_CERT_FILE, KAFKA_TLS_KEY_FILE  off
//	KAFKA_SASL_MECHANISM     PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512        none
//	KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD_FILE
//	KAFKA_GROUP_INSTANCE_ID  a killed process that starts again under     the pod's name in
//	                         the same id gets its partitions back at      Kubernetes, else none
//	                         once; without an id they are idle for 10s.
//	                         Each running process needs its own
//	BRIDGE_CONFIG            file with subscriptions in YAML              the two below
//	NOTIFIER_URL             sink of group notification-service           http://localhost:8002/
//	AUDITOR_URL              sink of group audit-service                  http://localhost:8003/
//	ADMIN_TOKEN_FILE         bearer token for writes of the admin API     loopback only
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
