// Notifier is a sink that notifies: it receives CloudEvents over HTTP and logs
// one line for each task that was created or completed. It stores nothing.
//
//	POST /     one CloudEvent, structured or binary: 204; a batch: 200 with the
//	           answers for its events
//	           400  not a CloudEvent, or created or completed without a task in it
//	           401  no good signature or token, when secrets or tokens are set
//	           413  over 1 MiB; 415 not in a form of a CloudEvent
//	OPTIONS /  the CloudEvents webhook handshake
//	GET /healthz, /readyz  on both ports; GET /metrics on the operator port
//	GET, PUT /log/level    on the operator port: LOG_LEVEL until the end; PUT from
//	                       this machine only, the body is the level
//
// It logs, word for word:
//
//	NOTIFICATION: New task created - '<title>' (ID: <task_id>)
//	NOTIFICATION: Task completed - '<title>' (ID: <task_id>)
//
// Delivery is at least once: an event that is delivered twice is logged twice.
//
// notifier --help prints this text, notifier --version what was built.
//
// Settings, all from the environment:
//
//	LISTEN_ADDR          public address                                  :8002
//	PORT                 set by serverless platforms; wins as :PORT
//	OPS_ADDR             operator address                                :9002
//	WEBHOOK_SECRET_FILE  secrets for signed posts, one whsec_... a line  none
//	SINK_TOKENS_FILE     tokens for posts, one "name token" a line       none
//	SHUTDOWN_GRACE       time for requests in progress after a stop      25s
//	SHUTDOWN_QUIET       take requests until none comes for so long      0s
//	LOG_FORMAT           auto, json or text; auto is text on a terminal  auto
//	LOG_LEVEL            debug, info, warn or error                      info
//	MAX_CONNECTIONS      to the public port; idle, slow ones make room    512
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
// Metrics: taskwire_notifications_total{type}, taskwire_sink_open,
// taskwire_auth_failures_total{reason}, taskwire_http_requests_total,
// taskwire_http_request_seconds, taskwire_build_info.
//
// SIGTERM or SIGINT: not ready, requests in progress are finished, exit 0; a
// second signal kills. Exit 1: a fault while running. Exit 2: wrong settings, all
// of them named.
package main

import (
	_ "embed"

	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/notifier/app"
)

//go:embed main.go
var source string

func main() { process.Main("notifier", source, app.FromEnv, app.New) }
