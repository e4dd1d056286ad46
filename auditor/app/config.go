package app

import (
	"os"

	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/internal/secretfile"
	"github.com/taskwire/taskwire/internal/sink"
	"github.com/taskwire/taskwire/internal/token"
)

const (
	pathKey     = "AUDIT_LOG_PATH"
	databaseKey = "AUDIT_DATABASE_URL"
	defaultPath = "audit.log"
)

// Config holds all settings of the auditor.
type Config struct {
	HTTP httpd.Config
	Sink sink.Config

	// Path of the log, AUDIT_LOG_PATH. Its folder must exist. "" when there is a database.
	Path string

	// DatabaseURL of the PostgreSQL database that holds the log in place of a file,
	// AUDIT_DATABASE_URL.
	DatabaseURL string

	// WaitForLock waits for the process that has the log, in place of refusing to
	// start, WAIT_FOR_LOCK.
	WaitForLock bool

	Tree TreeConfig

	// SegmentBytes is the length at which a file of the log is sealed,
	// AUDIT_SEGMENT_BYTES.
	SegmentBytes int64

	// ReadTokensFile has the tokens of those who may read the log, "" for everybody,
	// AUDIT_READ_TOKENS_FILE.
	ReadTokensFile string

	// VerifyKeysFile has the public keys of producers that sign, "" for none,
	// EVENT_VERIFY_KEYS_FILE.
	VerifyKeysFile string
}

// FromEnv reads the settings; its error names every mistake.
func FromEnv(lookup env.Lookup) (Config, error) {
	r := env.NewReader(lookup)
	cfg := Config{
		HTTP:         httpd.ConfigFromEnv(r, "auditor", 8003),
		Sink:         sink.ConfigFromEnv(r),
		WaitForLock:  r.Bool("WAIT_FOR_LOCK", false),
		SegmentBytes: r.Bytes("AUDIT_SEGMENT_BYTES", 1<<30, 1<<16),
	}
	cfg.Path, cfg.DatabaseURL = place(r)
	if key := readTokensFile; r.String(key, "") != "" {
		cfg.ReadTokensFile = r.String(key, "")
		if err := token.Check(cfg.ReadTokensFile); err != nil {
			r.Fail(key, "%v", err)
		}
	}
	if cfg.VerifyKeysFile = r.String(verifyKeysFile, ""); cfg.VerifyKeysFile != "" {
		if err := eventsign.CheckKeys(cfg.VerifyKeysFile); err != nil {
			r.Fail(verifyKeysFile, "%v", err)
		}
	}
	cfg.Tree = treeFromEnv(r)
	if cfg.DatabaseURL != "" && cfg.Tree.KeyFile == "" {
		r.Fail(signingKeyFile, "is missing: several auditors sign one log in a database, so its key is theirs; `auditor key --new` makes one")
	}
	return cfg, r.Err()
}

// TreeConfig says how the log is signed, and who is told.
type TreeConfig struct {
	// KeyFile has the signing key, AUDIT_SIGNING_KEY_FILE; "" for one beside the log.
	KeyFile string

	// SecondPlace gets a copy of each checkpoint, AUDIT_CHECKPOINT_URL; "" for none.
	SecondPlace string

	// Witnesses cosign checkpoints, AUDIT_WITNESS_FILE.
	Witnesses []tree.Witness
}

const (
	checkpointURL = "AUDIT_CHECKPOINT_URL"
	witnessFile   = "AUDIT_WITNESS_FILE"
)

func treeFromEnv(r *env.Reader) (cfg TreeConfig) {
	if cfg.KeyFile = r.String(signingKeyFile, ""); cfg.KeyFile != "" {
		if err := secretfile.Check(cfg.KeyFile, tree.ParseKeys); err != nil {
			r.Fail(signingKeyFile, "%v", err)
		}
	}
	if cfg.SecondPlace = r.String(checkpointURL, ""); cfg.SecondPlace != "" {
		if _, err := tree.ParsePlace(cfg.SecondPlace, nil); err != nil {
			r.Fail(checkpointURL, "%v", err)
		}
	}
	if path := r.File(witnessFile); path != "" && r.Err() == nil {
		content, err := os.ReadFile(path)
		if err == nil {
			cfg.Witnesses, err = tree.ParseWitnesses(content)
		}
		if err != nil {
			r.Fail(witnessFile, "%s: %v", path, err)
		}
	}
	return cfg
}

// place is where the log is: a path, or the URL of a database.
func place(r *env.Reader) (path, databaseURL string) {
	databaseURL = r.String(databaseKey, "")
	if databaseURL == "" {
		return r.String(pathKey, defaultPath), ""
	}
	if err := postgres.Check(databaseURL); err != nil {
		r.Fail(databaseKey, "%v", err)
	}
	if r.String(pathKey, "") != "" {
		r.Fail(pathKey, "is set, and "+databaseKey+" too: the log is either a file or in a database; auditor migrate moves it")
	}
	return "", databaseURL
}

func database(url string) postgres.Config {
	return postgres.Config{URL: url, Application: "taskwire-auditor"}
}
