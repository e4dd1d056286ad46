package stack

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	auditor "github.com/taskwire/taskwire/auditor/app"
	bridge "github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
	notifier "github.com/taskwire/taskwire/notifier/app"
	taskapi "github.com/taskwire/taskwire/taskapi/app"
)

// service is what every app.New returns.
type service interface {
	Run(ctx context.Context) error
	Addr() net.Addr
	OpsAddr() net.Addr
}

// door is the pair FromEnv and New of one service.
type door struct {
	check func(env.Lookup) error
	open  func(context.Context, env.Lookup, *slog.Logger) (service, error)
}

func (s *Stack) doors() map[string]door {
	breakable := func(lookup env.Lookup) (bridge.Config, error) {
		cfg, err := bridge.FromEnv(lookup)
		cfg.Console.Breakable = s.opts.Breakable
		return cfg, err
	}
	return map[string]door{
		"taskapi":  doorOf(taskapi.FromEnv, taskapi.New),
		"bridge":   doorOf(breakable, bridge.New),
		"notifier": doorOf(notifier.FromEnv, notifier.New),
		"auditor":  doorOf(auditor.FromEnv, auditor.New),
	}
}

func doorOf[C any, S service](fromEnv func(env.Lookup) (C, error), open func(context.Context, C, *slog.Logger) (S, error)) door {
	return door{
		check: func(lookup env.Lookup) error { _, err := fromEnv(lookup); return err },
		open: func(ctx context.Context, lookup env.Lookup, log *slog.Logger) (service, error) {
			cfg, err := fromEnv(lookup)
			if err != nil {
				return nil, err
			}
			return open(ctx, cfg, log)
		},
	}
}

// settings is the environment of one service: what the stack decides, then the
// caller's.
func (s *Stack) settings(name string) env.Lookup {
	decided := map[string]string{
		"OTEL_SERVICE_NAME":       "", // each service has its own
		"PORT":                    "", // when a platform sets it, all four would listen there
		"LISTEN_ADDR":             s.addrs[name],
		"OPS_ADDR":                s.ops[name],
		"KAFKA_BOOTSTRAP_SERVERS": strings.Join(s.brokers(), ","),
		"NOTIFIER_URL":            "http://" + s.addrs["notifier"] + "/",
		"AUDITOR_URL":             "http://" + s.addrs["auditor"] + "/",
		"AUDIT_LOG_PATH":          s.AuditLog(), // "" when the log is in a database
		"TASKAPI_URL":             "http://" + s.addrs["taskapi"] + "/",
	}
	defaults := map[string]string{"DATABASE_URL": "sqlite:" + filepath.Join(s.opts.DataDir, "tasks.db")}
	if len(s.opts.Brokers) == 0 {
		// Nothing else creates topics on the embedded broker, and nothing else is in
		// its groups: a fixed member need not wait for its old session to expire
		// after a kill.
		defaults["KAFKA_CREATE_TOPICS"] = "true"
		defaults["KAFKA_GROUP_INSTANCE_ID"] = "stack"
	}
	return func(key string) (string, bool) {
		if v, ok := decided[key]; ok {
			return v, true
		}
		if v, ok := s.opts.Env(key); ok {
			return v, true
		}
		v, ok := defaults[key]
		return v, ok
	}
}
