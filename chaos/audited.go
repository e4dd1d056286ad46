package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// The audit log is a file with one auditor, or with -database postgres it is there
// and has two, between which the recorder takes turns. In a sweep there is one: only
// the auditor that leads comes to the points of the tree.

func (y *system) auditsDatabase() bool { return y.Database == "postgres" }

// auditSettings say where the log is, to auditors and their tools.
func (y *system) auditSettings() []string {
	if !y.auditsDatabase() {
		return []string{"AUDIT_LOG_PATH=" + filepath.Join(y.logDir, "audit.log"), "AUDIT_SEGMENT_BYTES=64KiB"}
	}
	return []string{"AUDIT_DATABASE_URL=" + y.postgres.url(), "AUDIT_SIGNING_KEY_FILE=" + y.path("audit.key")}
}

// auditorSettings are auditSettings and, in a run with an intruder, the keys of producers.
func (y *system) auditorSettings() []string {
	return append(y.auditSettings(), y.signed("EVENT_VERIFY_KEYS_FILE", verifyKeysFile)...)
}

func (y *system) startAuditors(ctx context.Context) (err error) {
	if y.auditsDatabase() {
		key, err := exec.CommandContext(ctx, filepath.Join(y.Bin, "auditor"), "key", "--new").Output()
		if err == nil {
			err = os.WriteFile(y.path("audit.key"), key, 0o600)
		}
		if err != nil {
			return fmt.Errorf("make a signing key: %w", err)
		}
	}
	n := 1
	if y.auditsDatabase() && y.Strikes == nil {
		n = 2
	}
	y.rec, err = y.startSinks(n, "auditor", "deliveries.jsonl", y.auditorSettings()...)
	return err
}

// auditLog is the log up to its last line feed: that of the file, or what auditor
// cat prints.
func (y *system) auditLog(ctx context.Context) ([]byte, error) {
	if !y.auditsDatabase() {
		return readSegments(filepath.Join(y.logDir, "audit.log"))
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return y.auditor(ctx, "cat").Output()
}

func (y *system) auditor(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(y.Bin, "auditor"), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, y.auditSettings()...)
	return cmd
}

// dumpAudit makes a file of a log in PostgreSQL, for the judge.
func (y *system) dumpAudit(ctx context.Context) error {
	if !y.auditsDatabase() {
		return nil
	}
	log, err := y.auditLog(ctx)
	if err == nil {
		err = os.WriteFile(y.path("audit.log"), log, 0o600)
	}
	if err != nil {
		return fmt.Errorf("dump the audit log: %w", err)
	}
	return nil
}
