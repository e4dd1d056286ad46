package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/check"
)

// finish stops the services, dumps what they left, and writes run.json last: a
// folder without it is no run.
func (y *system) finish(ctx context.Context, stuck string, took time.Duration) error {
	var errs []error
	for i := len(y.targets) - 1; i > 0; i-- { // the broker must still answer the dumps
		errs = append(errs, y.targets[i].Down(syscall.SIGTERM))
	}
	if y.postgres != nil { // it answers what it has recovered
		errs = append(errs, y.postgres.Up())
	}
	errs = append(errs, y.dumpAudit(ctx), y.dumpTopics(ctx), y.dumpDatabase(ctx), y.dumpFaults(), y.dumpLastCommits(ctx))
	build, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		build = []byte("unknown")
	}
	r := check.Run{Seed: y.Seed, Build: strings.TrimSpace(string(build)), Topic: topic, Group: auditGroup, Notify: noticeTypes, Notifier: noticeGroup, Redriven: y.redriven.Load(), Seconds: took.Seconds(),
		Topology: fmt.Sprintf("taskapi x%d on %s, bridge x%d and an extra one, notifier x%d, auditor x%d, %s kafka of %d, %d partitions, %d clients", len(y.load.apis), y.Database, y.bridgeCount(), len(y.notices.sinks), len(y.rec.sinks), y.Kafka, max(1, y.Brokers), y.partitions(), y.Workers),
		Drained:  stuck == "", Stuck: stuck, Unproved: y.verifyLog(ctx), Left: y.notInjected(), Counts: y.counts(), Limits: y.watch.limits, Need: y.need()}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, y.panics(), y.pauses.err())
	return errors.Join(append(errs, os.WriteFile(y.path("run.json"), b, 0o600))...)
}

// verifyLog asks the auditor whether the log is the one that it signed, whenever it
// was killed. It returns what is wrong.
func (y *system) verifyLog(ctx context.Context) string {
	out, err := y.auditor(ctx, "verify").CombinedOutput()
	if err != nil {
		return fmt.Sprintf("auditor verify: %v: %s", err, out)
	}
	return ""
}

// panics finds programs that crashed: their restart would hide it.
func (y *system) panics() error {
	var errs []error
	for _, p := range y.programs() {
		log, err := os.ReadFile(y.path(p.name + ".log"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, sign := range []string{"\npanic: ", "\nfatal error: ", "WARNING: DATA RACE"} {
			if bytes.Contains(log, []byte(sign)) {
				errs = append(errs, fmt.Errorf("%s: %q in %s", p.name, strings.TrimSpace(sign), y.path(p.name+".log")))
			}
		}
	}
	return errors.Join(errs...)
}

func (y *system) counts() map[string]int {
	torn, _ := filepath.Glob(filepath.Join(y.logDir, "audit.log.torn-*"))
	c := map[string]int{"rebalances": y.rebalances(), "torn-tails": len(torn), "forged-refused": int(y.forgedRefused.Load()),
		"redriven": int(y.letters.Load()), "paused-restarts": int(y.pauses.restarted.Load())}
	if y.registry != nil {
		c["in-avro"], c["schemas-lost"] = y.inAvro, int(y.registry.lost.Load())
		c["registry-unread"], c["registry-unregistered"] = int(y.registry.unread.Load()), int(y.registry.unregistered.Load())
	}
	if y.Scale {
		maps.Copy(c, y.struck)
	}
	for _, p := range y.programs() {
		p.mu.Lock()
		c["starts"] += p.starts
		c["unexpected-exits"] += p.unexpected
		p.mu.Unlock()
	}
	return c
}

// rebalances counts the generations that a bridge joined after the first of
// each group. It reads the logs, because a bridge that is killed takes its
// metrics with it.
func (y *system) rebalances() int {
	type generation struct {
		Msg, Group string
		Generation int
	}
	joined, groups := map[generation]bool{}, map[string]bool{}
	for _, b := range y.bridges {
		log, err := os.ReadFile(y.path(b.name + ".log"))
		if err != nil {
			continue // it never ran
		}
		for line := range bytes.Lines(log) {
			var g generation
			if json.Unmarshal(line, &g) == nil && (g.Msg == "consumer group joined" || g.Msg == "consumer group rebalanced") && !strings.HasSuffix(g.Group, ".dlq") {
				g.Msg = ""
				joined[g], groups[g.Group] = true, true
			}
		}
	}
	return len(joined) - len(groups)
}
