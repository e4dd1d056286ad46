// Notifier is a sink that tells someone: it takes CloudEvents over HTTP and
// logs one line for each task that was created or completed. It keeps nothing.
//
//	POST /     one CloudEvent, structured or binary: 204; a batch: 200 with the
//	           answers for its events
//	           400  not a CloudEvent, or one of these types without a task in it
//	           401  the signature is missing or wrong, when secrets are set
//	           413  over 1 MiB; 415 in no form of a CloudEvent
//	OPTIONS /  the CloudEvents webhook handshake
//	GET /healthz, /readyz  on both ports; GET /metrics on the operator port
//
// What it logs, word for word:
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
//	WEBHOOK_SECRET_FILE  secrets for signed posts, one whsec_... a line  none: unsigned posts are taken
//	SHUTDOWN_GRACE       time for requests in hand after a stop          25s
//	LOG_FORMAT           auto, json or text; auto is text on a terminal  auto
//	LOG_LEVEL            debug, info, warn or error                      info
//	OPS_PPROF            profiles under /debug/pprof/ (operator port)    false
//
// Signatures are those of Standard Webhooks (webhook-id, webhook-timestamp,
// webhook-signature) over a structured event or a batch; any secret of the file
// will do, its clock may be 5 minutes off, and the file is read again when it
// changes. The binary form is refused then: nothing would sign its attributes.
//
// Metrics: taskwire_notifications_total{type}, taskwire_http_requests_total,
// taskwire_http_request_seconds, taskwire_build_info.
//
// SIGTERM or SIGINT: not ready, requests in hand are finished, exit 0; a second
// signal kills. Exit 1: a fault while running. Exit 2: wrong settings, all named.
package main

import (
	_ "embed"

	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/notifier/app"
)

//go:embed main.go
var source string

func main() { process.Main("notifier", source, app.FromEnv, app.New) }
