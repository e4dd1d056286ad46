package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/retry"
)

// shape is how many of each service share a topic and a database.
type shape struct{ partitions, taskapi, bridge, auditor, notifier int }

var (
	single  = shape{1, 1, 1, 1, 1}
	several = shape{12, 2, 3, 2, 2}
)

// benchScale says what a change costs in a system with several of each service,
// against one with one of each. On one machine the rate says little: all share its cores.
func benchScale(ctx context.Context, r *rig, t *table) error {
	server, stopServer, err := startPostgres(ctx)
	if err != nil {
		return err
	}
	stop := func() error { return errors.Join(stopServer(), r.stopQuorum()) }
	one, err := r.scaled(ctx, single, server)
	if err != nil {
		return errors.Join(err, stop())
	}
	all, err := r.scaled(ctx, several, server)
	if err != nil {
		return errors.Join(err, stop())
	}
	t.against("changes audited", perSecond, all.rate, one.rate, none)
	for _, of := range []string{"taskapi", "bridge", "auditor", "notifier", "PostgreSQL"} {
		t.against("CPU a change: "+of, seconds, all.cpu[of], one.cpu[of], none)
	}
	t.against("CPU a change: services and PostgreSQL", seconds, all.sum(), one.sum(), atMost(1.3))
	t.against("PostgreSQL: transactions for 1,000 changes", count, 1000*all.commits, 1000*one.commits, none)
	t.against("PostgreSQL: bytes of WAL a change", count, all.wal, one.wal, none)
	t.against("PostgreSQL: bytes of tables and indexes a change", count, all.size, one.size, none)
	return stop()
}

// cost is what was measured, for each change.
type cost struct {
	rate               float64
	cpu                map[string]float64 // seconds
	commits, wal, size float64
}

func (c cost) sum() (all float64) {
	for _, cpu := range c.cpu {
		all += cpu
	}
	return all
}

// scaled starts a system of a shape, loads it until everything is audited, and ends it.
func (r *rig) scaled(ctx context.Context, s shape, server *pgtest.Server) (c cost, err error) {
	y := &scaledSystem{rig: r, procs: map[string][]*proc{}}
	defer func() { err = errors.Join(err, y.close()) }()
	if err := y.start(ctx, s, server); err != nil {
		return c, err
	}
	var urls []string
	for _, api := range y.procs["taskapi"] {
		urls = append(urls, api.url)
	}
	var created atomic.Int64
	warm := r.window(3 * time.Second) // connections, plans, compiled Java
	r.say("%d Task APIs, %d bridges, %d auditors, %d notifiers, %d partitions", s.taskapi, s.bridge, s.auditor, s.notifier, s.partitions)
	if err := errors.Join(createFor(ctx, urls, warm, &created), y.audited(ctx, created.Load())); err != nil {
		return c, err
	}
	before, err := y.read(ctx)
	if err != nil {
		return c, err
	}
	n, began := created.Load(), time.Now()
	if err := errors.Join(createFor(ctx, urls, r.window(15*time.Second), &created), y.audited(ctx, created.Load())); err != nil {
		return c, err
	}
	took := time.Since(began).Seconds()
	after, err := y.read(ctx)
	if err != nil {
		return c, err
	}
	changes := float64(created.Load() - n)
	c = cost{rate: changes / took, cpu: map[string]float64{}, commits: (after.commits - before.commits) / changes,
		wal: (after.wal - before.wal) / changes, size: (after.size - before.size) / changes}
	for name, cpu := range after.cpu {
		c.cpu[name] = (cpu - before.cpu[name]) / changes
	}
	return c, nil
}

// scaledSystem is a running system with a database of its own.
type scaledSystem struct {
	*rig
	broker *broker
	conn   *pgx.Conn
	procs  map[string][]*proc
	first  int // process of PostgreSQL
}

func (y *scaledSystem) start(ctx context.Context, s shape, server *pgtest.Server) (err error) {
	if y.broker, err = y.scaledBroker(ctx, s.partitions); err != nil {
		return err
	}
	if y.first, err = y.database(ctx, server, y.broker.topic); err != nil {
		return err
	}
	key, err := y.signingKey(ctx)
	if err != nil {
		return err
	}
	// The name of a database is not escaped: it is that of a topic without the hyphen.
	url := server.URL(strings.ReplaceAll(y.broker.topic, "-", "_"))
	start := func(name string, n int, env func(i int) []string) error {
		for i := range n {
			p, err := y.service(ctx, name, env(i)...)
			if err != nil {
				return err
			}
			y.procs[name] = append(y.procs[name], p)
		}
		return nil
	}
	settings := append(y.broker.settings(), fmt.Sprintf("KAFKA_TOPIC_PARTITIONS=%d", s.partitions))
	return errors.Join(
		start("notifier", s.notifier, func(int) []string { return nil }),
		start("auditor", s.auditor, func(int) []string { return []string{"AUDIT_DATABASE_URL=" + url, "AUDIT_SIGNING_KEY_FILE=" + key} }),
		// A bridge posts to one of the sinks, as behind a balancer of connections.
		start("bridge", s.bridge, func(i int) []string {
			return append(settings, fmt.Sprintf("KAFKA_GROUP_INSTANCE_ID=bench-%d", i),
				"NOTIFIER_URL="+y.procs["notifier"][i%s.notifier].url+"/", "AUDITOR_URL="+y.procs["auditor"][i%s.auditor].url+"/")
		}),
		start("taskapi", s.taskapi, func(int) []string { return append(settings, "DATABASE_URL="+url) }))
}

// scaledBroker is three brokers for several partitions, when they are real.
func (y *scaledSystem) scaledBroker(ctx context.Context, partitions int) (*broker, error) {
	if !realKafka() || partitions == 1 {
		return y.rig.broker(ctx, partitions)
	}
	if y.quorum == nil {
		y.say("starting three Apache Kafka brokers")
		q, err := kafkatest.OpenQuorum(ctx, kafkatest.Options{Dir: y.sub("quorum"), Scratch: true, Progress: os.Stderr}, nil)
		if err != nil {
			return nil, err
		}
		y.quorum = q
	}
	y.topics++
	b := &broker{topic: fmt.Sprintf("events-%d", y.topics), addr: strings.Join(y.quorum.Brokers, ",")}
	return b, b.create(ctx, b.topic, partitions)
}

func (r *rig) stopQuorum() error {
	q := r.quorum
	r.quorum = nil
	if q == nil {
		return nil
	}
	return q.Kill()
}

// database makes one, connects to it, and returns the first process of its server.
func (y *scaledSystem) database(ctx context.Context, server *pgtest.Server, topic string) (pid int, err error) {
	name := strings.ReplaceAll(topic, "-", "_")
	if err := administer(ctx, server, "CREATE DATABASE "+name); err != nil {
		return 0, err
	}
	if y.conn, err = pgx.Connect(ctx, server.URL(name)); err != nil {
		return 0, err
	}
	var folder string
	if err := y.conn.QueryRow(ctx, "SELECT current_setting('data_directory')").Scan(&folder); err != nil {
		return 0, err
	}
	file, err := os.ReadFile(filepath.Join(folder, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := bytes.Cut(file, []byte("\n"))
	return strconv.Atoi(string(first))
}

// startPostgres starts a server of its own; stop removes its files, too.
func startPostgres(ctx context.Context) (server *pgtest.Server, stop func() error, err error) {
	dir, err := os.MkdirTemp("", "taskwire-bench-postgres-") // its account may not look into the rig's
	if err != nil {
		return nil, nil, err
	}
	server, err = pgtest.Open(ctx, pgtest.Options{Dir: dir, Scratch: true})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return server, func() error { return errors.Join(server.Stop(), os.RemoveAll(dir)) }, nil
}

// administer has the server execute a statement that concerns all of it.
func administer(ctx context.Context, server *pgtest.Server, statement string) error {
	admin, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = admin.Exec(ctx, statement)
	return errors.Join(err, admin.Close(ctx))
}

func (r *rig) signingKey(ctx context.Context) (path string, err error) {
	key, err := exec.CommandContext(ctx, filepath.Join(r.programs, "auditor"), "key", "--new").Output()
	path = filepath.Join(r.sub("key"), "audit.key")
	return path, errors.Join(err, os.WriteFile(path, key, 0o600))
}

// audited waits until the log has n entries.
func (y *scaledSystem) audited(ctx context.Context, n int64) error {
	for end := time.Now().Add(2 * time.Minute); ; {
		var have int64
		if err := y.conn.QueryRow(ctx, "SELECT count(*) FROM audit.entries").Scan(&have); err != nil || have >= n {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d changes are audited 2 minutes after the load", have, n)
		}
		if err := retry.Pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// reading is what processes and server have used so far.
type reading struct {
	cpu                map[string]float64
	commits, wal, size float64
}

func (y *scaledSystem) read(ctx context.Context) (now reading, err error) {
	now.cpu = map[string]float64{}
	for name, all := range y.procs {
		for _, p := range all {
			cpu, err := cpuOf(p.Pid())
			if err != nil {
				return now, err
			}
			now.cpu[name] += cpu
		}
	}
	if now.cpu["PostgreSQL"], err = cpuOfFamily(y.first); err != nil {
		return now, err
	}
	err = y.conn.QueryRow(ctx, `SELECT xact_commit::float8, (pg_current_wal_lsn() - '0/0'::pg_lsn)::float8, pg_database_size(datname)::float8
		FROM pg_stat_database WHERE datname = current_database()`).Scan(&now.commits, &now.wal, &now.size)
	return now, err
}

// cpuOfFamily is the seconds that a process, its children and those of them that
// have ended have used.
func cpuOfFamily(first int) (sum float64, err error) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range all {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		pid, _, _ := bytes.Cut(stat, []byte(" "))
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		const parent, user, system, childUser, childSystem = 1, 11, 12, 13, 14
		used := []int{user, system}
		if string(pid) == strconv.Itoa(first) {
			used = append(used, childUser, childSystem)
		} else if fields[parent] != strconv.Itoa(first) {
			continue
		}
		for _, i := range used {
			ticks, err := strconv.Atoi(fields[i])
			if err != nil {
				return 0, err
			}
			sum += float64(ticks) / 100
		}
	}
	return sum, err
}

// close ends the programs against the flow, so that none waits for another.
func (y *scaledSystem) close() error {
	var errs []error
	for _, name := range []string{"taskapi", "bridge", "auditor", "notifier"} {
		for _, p := range y.procs[name] {
			errs = append(errs, p.kill())
		}
	}
	if y.conn != nil {
		errs = append(errs, y.conn.Close(context.Background()))
	}
	if y.broker != nil {
		errs = append(errs, y.broker.close())
	}
	return errors.Join(errs...)
}
