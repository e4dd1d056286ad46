package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/taskwire/taskwire/internal/pgtest"
)

// benchPostgresLarge measures a Task API and an auditor whose PostgreSQL has many tasks
// and entries. Both come from files, by the commands that move these.
func benchPostgresLarge(ctx context.Context, r *rig, t *table) (err error) {
	server, stop, err := startPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for _, name := range []string{"few", "many"} {
		if err := administer(ctx, server, "CREATE DATABASE "+name); err != nil {
			return err
		}
	}
	p := pgLarge{r, server, server.URL("few"), server.URL("many")}
	if err := p.tasks(ctx, t); err != nil {
		return err
	}
	return p.entries(ctx, t)
}

// pgLarge is a server with a database of few rows and one of many.
type pgLarge struct {
	*rig
	server    *pgtest.Server
	few, many string // their addresses
}

// settle has the server write what it still has in memory, which would slow down
// whoever is measured next.
func (r pgLarge) settle(ctx context.Context) error {
	return administer(ctx, r.server, "CHECKPOINT")
}

// tasks are made as in the section taskapi-large.
func (r pgLarge) tasks(ctx context.Context, t *table) error {
	tasks := r.n(r.options.tasks)
	b, err := r.broker(ctx, 1)
	if err != nil {
		return err
	}
	file, err := r.largeDatabase(ctx, b, tasks)
	if err != nil {
		return err
	}
	r.say("moving %d tasks to PostgreSQL", tasks)
	moved, err := r.migrate(ctx, "taskapi", "sqlite:"+file, "DATABASE_URL="+r.many)
	if err != nil {
		return err
	}
	all := creates(r.n(30_000))
	r.say("Task API, empty and with %d tasks", tasks)
	if err := r.settle(ctx); err != nil {
		return err
	}
	empty, err := r.createRate(ctx, b, r.few, all)
	if err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	large, err := r.createRate(ctx, b, r.many, all)
	if err != nil {
		return err
	}
	unmatched, err := r.unmatched(ctx, b, r.many)
	if err != nil {
		return err
	}
	t.figure("taskapi migrate", seconds, moved.Seconds(), none)
	t.against("acknowledged creates, against an empty database", perSecond, large, empty, atLeast(0.9))
	t.figure("owner_id and status without a match", seconds, unmatched, atMost(0.005))
	return b.close()
}

// entries are as many as there are tasks, those of a tenth of them.
func (r pgLarge) entries(ctx context.Context, t *table) error {
	entries := r.n(r.options.tasks)
	path := filepath.Join(r.sub("large"), "audit.log")
	if err := r.writeLog(ctx, path, entries); err != nil {
		return err
	}
	key, err := r.signingKey(ctx)
	if err != nil {
		return err
	}
	r.say("moving %d entries to PostgreSQL", entries)
	moved, err := r.migrate(ctx, "auditor", path, "AUDIT_DATABASE_URL="+r.many)
	if err != nil {
		return err
	}
	r.say("auditor, empty and with %d entries", entries)
	_, posts := bodies(r.n(20_000), 1000)
	empty, err := r.appendRate(ctx, r.few, key, 0, posts, nil)
	if err != nil {
		return err
	}
	var history, p50, p99 float64
	rate, err := r.appendRate(ctx, r.many, key, entries, posts, func(p *proc) error {
		if history, err = histories(ctx, p, entries); err != nil {
			return err
		}
		proofs, err := answered(ctx, p.url+"/proof/", entries)
		p50, p99 = percentiles(proofs)
		return err
	})
	if err != nil {
		return err
	}
	t.figure("auditor migrate", seconds, moved.Seconds(), none)
	t.against("acknowledged appends, against an empty database", perSecond, rate, empty, atLeast(0.9))
	t.figure(fmt.Sprintf("history of one task (%d entries)", versions), seconds, history, atMost(0.005))
	t.figure("proof of an entry, p50", seconds, p50, none)
	t.figure("the same, p99", seconds, p99, none)
	return nil
}

// appendRate posts to an auditor that has signed its entries; before is nil, or what
// else is measured then.
func (r pgLarge) appendRate(ctx context.Context, database, key string, entries int, posts [][]byte, before func(*proc) error) (float64, error) {
	if err := r.settle(ctx); err != nil {
		return 0, err
	}
	p, err := r.launch("auditor", "AUDIT_DATABASE_URL="+database, "AUDIT_SIGNING_KEY_FILE="+key, "LOG_LEVEL=warn")
	if err != nil {
		return 0, err
	}
	if err := errors.Join(p.ready(ctx, 10*time.Minute), p.signed(ctx, entries)); err != nil {
		return 0, err
	}
	if before != nil {
		if err := before(p); err != nil {
			return 0, err
		}
	}
	return p.lastRate("/", structuredType, posts)
}

// migrate runs the subcommand of a program.
func (r *rig) migrate(ctx context.Context, program, from, to string) (time.Duration, error) {
	began := time.Now()
	cmd := exec.CommandContext(ctx, filepath.Join(r.programs, program), "migrate", from)
	cmd.Env = append(os.Environ(), to)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%s migrate: %w\n%s", program, err, out)
	}
	return time.Since(began), nil
}
