package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/internal/pgtest"
)

// postgres is the server of -database postgres as a target.
type postgres struct {
	server *pgtest.Server
	dir    string

	mu   sync.Mutex // its methods may not overlap; guards what follows
	down bool
	thaw func() // nil unless it is stopped
}

// startPostgres starts the server that the Task APIs share. Its account may not
// look into the run's folder, so its data are elsewhere and its log is kept.
func (y *system) startPostgres(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "chaos-postgres-*")
	if err != nil {
		return err
	}
	server, err := pgtest.Open(ctx, pgtest.Options{Dir: dir, Scratch: true})
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	y.postgres = &postgres{server: server, dir: dir}
	conn, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+taskDatabase); err != nil {
		return err
	}
	y.targets = append(y.targets, y.postgres)
	return nil
}

// taskDatabase is that of the Task APIs. It is not the one through which sessions are ended.
const taskDatabase = "tasks"

// url is where the Task APIs keep their tasks.
func (p *postgres) url() string { return p.server.URL(taskDatabase) }

// close removes everything but the log, which becomes the file kept.
func (p *postgres) close(kept string) error {
	err := p.Down(syscall.SIGTERM) // after which its shared memory is gone, too
	log, failed := p.server.Log()
	return errors.Join(err, failed, os.WriteFile(kept, []byte(log), 0o600), os.RemoveAll(p.dir))
}

func (p *postgres) Name() string { return "postgres" }

// Signal stops all processes of the server, or lets them go on.
func (p *postgres) Signal(sig syscall.Signal) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case sig == syscall.SIGSTOP && !p.down && p.thaw == nil:
		p.thaw, err = p.server.Freeze(context.Background())
	case sig == syscall.SIGCONT:
		p.goOn()
	}
	return err
}

func (p *postgres) goOn() {
	if p.thaw != nil {
		p.thaw()
		p.thaw = nil
	}
}

// Down ends it: SIGKILL the first process, SIGTERM all of them at once, with
// nothing written in either case.
func (p *postgres) Down(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil
	}
	p.goOn()
	p.down = true
	if sig == syscall.SIGKILL {
		return p.server.Kill()
	}
	return p.server.Immediate()
}

// Up starts it with the same data.
func (p *postgres) Up() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.down {
		return nil
	}
	err := p.server.Restart()
	p.down = err != nil
	return err
}

// injectDatabase ends the server, freezes it, or ends its sessions.
func injectDatabase(y *system, ctx context.Context) (fault, error) {
	p := y.postgres
	switch y.rand.IntN(4) {
	case 0:
		return fault{target: "postgres immediate", last: y.between(100, 3000), heal: p.Up}, p.Down(syscall.SIGTERM)
	case 1:
		return fault{target: "postgres kill", last: y.between(100, 3000), heal: p.Up}, p.Down(syscall.SIGKILL)
	case 2:
		return fault{target: "postgres stop", last: y.between(2000, 6000), heal: resume(p)}, p.Signal(syscall.SIGSTOP)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down || p.thaw != nil {
		return fault{target: "postgres sessions"}, errors.New("it is down")
	}
	_, err := p.server.Terminate(ctx, taskDatabase)
	return fault{target: "postgres sessions", heal: func() error { return nil }}, err
}
