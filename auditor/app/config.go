package app

import (
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/sink"
	"github.com/taskwire/taskwire/internal/token"
)

const defaultPath = "audit.log"

// Config holds all settings of the auditor.
type Config struct {
	HTTP httpd.Config
	Sink sink.Config

	// Path of the log, AUDIT_LOG_PATH. Its folder must exist.
	Path string

	// ReadTokensFile has the tokens of those who may read the log, "" for everybody,
	// AUDIT_READ_TOKENS_FILE.
	ReadTokensFile string
}

// FromEnv reads the settings; its error names every mistake.
func FromEnv(lookup env.Lookup) (Config, error) {
	r := env.NewReader(lookup)
	cfg := Config{
		HTTP: httpd.ConfigFromEnv(r, "auditor", 8003),
		Sink: sink.ConfigFromEnv(r),
		Path: r.String("AUDIT_LOG_PATH", defaultPath),
	}
	if key := readTokensFile; r.String(key, "") != "" {
		cfg.ReadTokensFile = r.String(key, "")
		if err := token.Check(cfg.ReadTokensFile); err != nil {
			r.Fail(key, "%v", err)
		}
	}
	// A security setting that is silently ignored would be worse than an error.
	if key := "AUDIT_SIGNING_KEY_FILE"; r.String(key, "") != "" {
		r.Fail(key, "is not supported yet; unset it")
	}
	return cfg, r.Err()
}
