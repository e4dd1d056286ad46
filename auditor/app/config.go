package app

import (
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
)

const defaultPath = "audit.log"

// Config holds all settings of the auditor.
type Config struct {
	HTTP httpd.Config

	// Path of the log, AUDIT_LOG_PATH. Its folder must exist.
	Path string
}

// FromEnv reads the settings; its error names every mistake.
func FromEnv(lookup env.Lookup) (Config, error) {
	r := env.NewReader(lookup)
	cfg := Config{
		HTTP: httpd.ConfigFromEnv(r, "auditor", 8003),
		Path: r.String("AUDIT_LOG_PATH", defaultPath),
	}
	// A security setting that is silently ignored would be worse than an error.
	for _, key := range []string{"WEBHOOK_SECRET_FILE", "AUDIT_SIGNING_KEY_FILE"} {
		if r.String(key, "") != "" {
			r.Fail(key, "is not supported yet; unset it")
		}
	}
	return cfg, r.Err()
}
