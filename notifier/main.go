// Notifier is a sink that tells someone: it takes CloudEvents over HTTP and
// logs one line for each task that was created or completed. It keeps nothing.
//
//	POST /     one CloudEvent, structured or binary, or a batch: 204
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
// Settings, all from the environment:
//
//	LISTEN_ADDR     public address                                  :8002
//	PORT            set by serverless platforms; wins as :PORT
//	OPS_ADDR        operator address                                :9002
//	SHUTDOWN_GRACE  time for requests in hand after a stop          25s
//	LOG_FORMAT      auto, json or text; auto is text on a terminal  auto
//	LOG_LEVEL       debug, info, warn or error                      info
//	OPS_PPROF       profiles under /debug/pprof/ of the operator port  false
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
