// Auditor is a sink that remembers: it takes CloudEvents over HTTP and appends
// each one once to a log that only grows. What it answered with 2xx is on disk.
//
//	POST /                   one CloudEvent, structured or binary, or a batch
//	                         201 {"seq":n,"duplicate":false}  a new entry, after fsync
//	                         200 {"seq":n,"duplicate":true}   was there before, nothing written
//	                         409  same source and id, other content: an alarm, nothing written
//	                         503  cannot store now; Retry-After says when to try again
//	OPTIONS /                the CloudEvents webhook handshake
//	GET /entries             ?task_id= &type= &after=SEQ &limit= (100, at most 1000)
//	GET /entries/{seq}       one line of the log
//	GET /tasks/{id}/history  the versions of a task, gaps and steps back flagged
//	GET /healthz, /readyz    on both ports; GET /metrics on the operator port
//
// For each new entry it logs, word for word:
//
//	AUDIT: task.created - task_id=<task_id>
//
// Subcommands:
//
//	auditor cat [PATH]       prints the log, oldest line first; PATH is AUDIT_LOG_PATH
//	                         when left out. It needs no lock: the auditor may run.
//
// The log is a file of JSON lines. The auditor alone may write it: a second one
// refuses to start. When the last write was cut short by a crash, its remains are
// moved to AUDIT_LOG_PATH.torn-<offset>-<time> and said so in the log output;
// damage anywhere else refuses to start and names the byte. When the disk is full
// posts are answered 503 until there is room. After a failed fsync nothing more is
// acknowledged and the auditor exits with status 1: start it again, and it
// reads what the disk really holds.
//
// When the log cannot be opened for want of rights or room, or because its file
// system is read-only, the auditor starts all the same: it is not ready, says why
// in the log output and in /readyz, answers 503, and tries again every second.
//
// Settings, all from the environment:
//
//	AUDIT_LOG_PATH  the log; its directory must exist                audit.log
//	LISTEN_ADDR     public address                                   :8003
//	PORT            set by serverless platforms; wins as :PORT
//	OPS_ADDR        operator address                                 :9003
//	SHUTDOWN_GRACE  time for requests in hand after a stop           25s
//	LOG_FORMAT      auto, json or text; auto is text on a terminal   auto
//	LOG_LEVEL       debug, info, warn or error                       info
//	OPS_PPROF       profiles under /debug/pprof/ of the operator port  false
//
// SIGTERM or SIGINT: not ready, requests in hand are finished, exit 0; a second
// signal kills. Exit 1: a fault while running. Exit 2: wrong settings, all named.
package main

import (
	_ "embed"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/process"
)

//go:embed main.go
var source string

func main() { process.Main("auditor", source, app.FromEnv, app.New, app.Cat()) }
