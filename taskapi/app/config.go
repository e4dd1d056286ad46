package app

import (
	"errors"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/token"
)

// Config is the settings of the service.
type Config struct {
	HTTP            httpd.Config
	Kafka           kafka.Config
	Database        string          // path of the SQLite file, DATABASE_URL without its scheme; "" for PostgreSQL
	Postgres        postgres.Config // DATABASE_URL and PGPASSFILE; URL "" for SQLite
	Compact         bool            // rewrite a database of an earlier version that cannot shrink, DATABASE_COMPACT
	WaitForLock     bool            // wait for the process that has the SQLite file, in place of refusing to start, WAIT_FOR_LOCK
	EventMode       event.Mode      // how an event becomes a Kafka record, EVENT_MODE
	Avro            bool            // the data of events is published in Avro, EVENT_ENCODING
	Registry        registry.Config // of Avro schemas
	SigningKeyFile  string          // EVENT_SIGNING_KEY_FILE; "" leaves events unsigned
	TokensFile      string          // API_TOKENS_FILE; "" leaves the API open
	OutboxLimit     int64           // events that may wait for Kafka before changes are refused, OUTBOX_LIMIT
	OutboxRetention time.Duration   // how long the row of a published event is kept, OUTBOX_RETENTION
}

// FromEnv reads the settings; the error lists every mistake.
func FromEnv(lookup env.Lookup) (Config, error) {
	r := env.NewReader(lookup)
	cfg := Config{
		HTTP:            httpd.ConfigFromEnv(r, "taskapi", 8000),
		Kafka:           kafka.ConfigFromEnv(r, "taskapi"),
		EventMode:       event.Mode(r.Enum("EVENT_MODE", "structured", "structured", "binary", "envelope")),
		Compact:         r.Bool("DATABASE_COMPACT", false),
		WaitForLock:     r.Bool("WAIT_FOR_LOCK", false),
		SigningKeyFile:  r.String("EVENT_SIGNING_KEY_FILE", ""),
		TokensFile:      r.String("API_TOKENS_FILE", ""),
		OutboxLimit:     int64(r.Int("OUTBOX_LIMIT", 1_000_000, 1, 1_000_000_000)),
		OutboxRetention: r.Duration("OUTBOX_RETENTION", time.Hour, time.Minute, 365*24*time.Hour),
	}
	cfg.Registry, cfg.Avro = registry.ConfigFromEnv(r)
	if cfg.Avro && r.String("EVENT_MODE", "binary") != "binary" {
		r.Fail("EVENT_MODE", "want binary, or none, with EVENT_ENCODING=avro: the data is the record's value")
	}
	if cfg.TokensFile != "" {
		if err := token.Check(cfg.TokensFile); err != nil {
			r.Fail("API_TOKENS_FILE", "%v", err)
		}
	}
	if cfg.SigningKeyFile != "" {
		if err := eventsign.CheckSigner(cfg.SigningKeyFile); err != nil {
			r.Fail("EVENT_SIGNING_KEY_FILE", "%v", err)
		}
	}
	cfg.Database, cfg.Postgres = databaseFromEnv(r)
	return cfg, r.Err()
}

func databaseFromEnv(r *env.Reader) (path string, server postgres.Config) {
	value, passwords := r.String("DATABASE_URL", "sqlite:tasks.db"), r.File("PGPASSFILE")
	if scheme, _, _ := strings.Cut(value, ":"); scheme != "postgres" && scheme != "postgresql" {
		path, err := databasePath(value)
		if err != nil {
			r.Fail("DATABASE_URL", "%v", err)
		}
		return path, server
	}
	if err := postgres.Check(value); err != nil {
		r.Fail("DATABASE_URL", "%v", err)
	}
	return "", postgres.Config{URL: value, PasswordFile: passwords, Application: "taskapi"}
}

// databasePath reads sqlite:PATH. The value is not repeated in an error: an
// address of a database often carries a password.
func databasePath(value string) (string, error) {
	scheme, path, ok := strings.Cut(value, ":")
	if !ok || scheme != "sqlite" {
		return "", errors.New("want sqlite:PATH, such as sqlite:tasks.db or sqlite:/var/lib/taskapi/tasks.db, or postgres://USER@HOST:PORT/DATABASE")
	}
	if rest, isURL := strings.CutPrefix(path, "//"); isURL {
		if !strings.HasPrefix(rest, "/") {
			return "", errors.New("want sqlite:PATH for a relative path or sqlite:///PATH for an absolute one; sqlite://HOST names no file")
		}
		path = rest
	}
	if path == "" || path == ":memory:" || strings.HasSuffix(path, "/") {
		return "", errors.New("want the path of a file: what is acknowledged must be on a disk")
	}
	return path, nil
}
