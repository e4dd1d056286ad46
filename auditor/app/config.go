package app

import (
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
)

const defaultPath = "audit.log"

// Config is everything the auditor can be told.
type Config struct {
	HTTP httpd.Config

	// Path of the log, AUDIT_LOG_PATH. Its directory must exist.
	Path string
}

// FromEnv reads the settings; its error names every mistake.
func FromEnv(lookup env.Lookup) (Config, error) {
	r := env.NewReader(lookup)
	cfg := Config{
		HTTP: httpd.ConfigFromEnv(r, "auditor", 8003),
		Path: r.String("AUDIT_LOG_PATH", defaultPath),
	}
	// A setting that asks for protection and does nothing would be worse than none.
	for _, key := range []string{"WEBHOOK_SECRET_FILE", "AUDIT_SIGNING_KEY_FILE"} {
		if r.String(key, "") != "" {
			r.Fail(key, "is not built in yet; unset it")
		}
	}
	return cfg, r.Err()
}
