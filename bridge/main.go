// Bridge moves CloudEvents from Kafka to HTTP sinks: one consumer group per
// subscription, one POST per event, and an offset is committed only after its
// event was answered with 2xx (or its dead letter acknowledged by Kafka).
//
//	bridge                       serve
//	bridge check                 read BRIDGE_CONFIG, print it with defaults filled in; exit 0, or 2 with every mistake
//	bridge explain --event FILE  which subscriptions want an event, and why not
//	bridge dlq list              dead letters, a line each
//	bridge dlq show -offset N    one of them whole
//	bridge dlq watch             each as it comes
//	bridge --version             version, revision and Go release
//
// Admin API on the public port:
//
//	GET  /subscriptions, /subscriptions/{name}     state, and per partition committed, end, lag, in flight, what blocks
//	POST /subscriptions/{name}/pause, .../resume   from this machine, or with the token of ADMIN_TOKEN_FILE
//	GET  /healthz, /readyz on both ports; GET /metrics on the operator port
//
// Settings, all from the environment:
//
//	LISTEN_ADDR              public address                               :8001
//	PORT                     set by serverless platforms; wins as :PORT
//	OPS_ADDR                 operator address                             :9001
//	SHUTDOWN_GRACE           time for posts in hand after a stop          25s
//	LOG_FORMAT               auto, json or text                           auto
//	LOG_LEVEL                debug (one line a delivery), info, warn, error  info
//	OPS_PPROF                profiles under /debug/pprof/                 false
//	KAFKA_BOOTSTRAP_SERVERS  host:port,...                                localhost:9092
//	KAFKA_TOPIC              topic of the events                          task-events
//	KAFKA_CREATE_TOPICS      make missing topics                          false
//	KAFKA_TOPIC_PARTITIONS   of topics it makes                           1
//	KAFKA_TLS, KAFKA_TLS_CA_FILE, KAFKA_TLS_CERT_FILE, KAFKA_TLS_KEY_FILE  off
//	KAFKA_SASL_MECHANISM     PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512        none
//	KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD_FILE
//	KAFKA_GROUP_INSTANCE_ID  a process that was killed and is started     the pod's name in
//	                         again under the same id gets its partitions  Kubernetes, else none
//	                         back at once; without one they wait 10s.
//	                         Each running process needs its own
//	BRIDGE_CONFIG            subscriptions in YAML                        the two below
//	NOTIFIER_URL             sink of group notification-service           http://localhost:8002/
//	AUDITOR_URL              sink of group audit-service                  http://localhost:8003/
//	ADMIN_TOKEN_FILE         bearer token for writes of the admin API     loopback only
//
// SIGTERM or SIGINT: not ready, no new posts, posts in hand finish, what
// finished is committed, the groups are left, exit 0; a second signal kills.
// Exit 1: a fault while running. Exit 2: wrong settings, all named.
package main

import (
	_ "embed"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/process"
)

//go:embed main.go
var source string

func main() { process.Main("bridge", source, app.FromEnv, app.New, app.Commands()...) }
