package pgledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/postgres"
)

// The limits of a batch, which holds the head for as long as it takes.
const (
	batchEntries = 1000
	batchBytes   = 4 << 20
)

// A batch is what one transaction makes durable.
type batch struct {
	claims []*claim
	bytes  int
	turn   chan struct{} // closed when the goroutine of its first entry has to write it
	done   chan struct{} // closed when it is committed or failed
	err    error         // set before done is closed
}

// A claim is an entry that asks for a place in the log. The writer sets the
// outcome before the batch is done.
type claim struct {
	ledger.Rendering
	key              [32]byte
	task, typ, actor *int64
	at               time.Time // of an imported line
	batch            *batch
	outcome          ledger.Outcome
}

func newClaim(e ledger.Entry) (*claim, error) {
	r, err := ledger.Render(e)
	if err != nil {
		return nil, err
	}
	actor, _ := e.Attribute("actor").(string)
	return &claim{Rendering: r, key: keyOf(r.Source, r.ID), task: narrow(e.TaskID()), typ: narrow(e.Type), actor: narrow(actor)}, nil
}

// Append makes the entries durable and returns the outcome of each. Their order
// is kept, and an error of one does not stop the others.
func (l *Ledger) Append(entries ...ledger.Entry) []ledger.Outcome {
	outs := make([]ledger.Outcome, len(entries))
	claims := make([]*claim, len(entries))
	for i, e := range entries {
		claims[i], outs[i].Err = newClaim(e)
	}
	for _, b := range l.enqueue(claims, outs) {
		<-b.turn
		// Callers that the previous batch has just answered may still join this one.
		runtime.Gosched()
		l.write(b)
	}
	for i, c := range claims {
		if c == nil {
			continue
		}
		<-c.batch.done
		if outs[i] = c.outcome; c.batch.err != nil {
			outs[i] = ledger.Outcome{Err: c.batch.err}
		}
	}
	return outs
}

// enqueue adds the entries to the batches that collect, and returns those that the
// caller has to write: the ones that its entries begin.
func (l *Ledger) enqueue(claims []*claim, outs []ledger.Outcome) (lead []*batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range claims {
		if c == nil {
			continue
		}
		size := len(c.Content)
		switch {
		case l.fault != nil:
			outs[i].Err, claims[i] = l.fault, nil
			continue
		case l.closed:
			outs[i].Err, claims[i] = ledger.ErrClosed, nil
			continue
		case l.pending > 0 && l.pending+size > maxPending:
			outs[i].Err, claims[i] = ledger.ErrBusy, nil
			continue
		}
		b := l.gathering(size)
		if b == nil {
			b = &batch{turn: make(chan struct{}), done: make(chan struct{})}
			lead = append(lead, b)
			if l.busy {
				l.queue = append(l.queue, b)
			} else {
				l.busy = true
				l.queue = append(l.queue, b)
				close(b.turn)
			}
		}
		c.batch = b
		b.claims, b.bytes = append(b.claims, c), b.bytes+size
		l.pending += size
	}
	return lead
}

// gathering is the batch that still has room, or nil. mu is held.
func (l *Ledger) gathering(size int) *batch {
	if len(l.queue) == 0 {
		return nil
	}
	b := l.queue[len(l.queue)-1]
	if len(b.claims) == batchEntries || b.bytes+size > batchBytes {
		return nil
	}
	return b
}

// write makes one batch durable and passes busy, which the caller holds, to the
// next one.
func (l *Ledger) write(b *batch) {
	l.mu.Lock()
	l.queue, l.writing = l.queue[1:], b
	err := l.fault
	l.mu.Unlock()
	if err == nil {
		err = l.store(b)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var fault *ledger.FaultError
	if errors.As(err, &fault) && l.fault == nil {
		l.fault = err
		close(l.failed)
	}
	l.trouble, b.err = err, err
	l.pending -= b.bytes
	close(b.done)
	if len(l.queue) > 0 {
		close(l.queue[0].turn)
		return
	}
	l.busy, l.writing = false, nil
}

// store is the transaction, twice if need be: a connection that was kept may have
// died in the meantime. That is noticed before anything is sent that could be
// committed, so the second attempt cannot be a second copy.
func (l *Ledger) store(b *batch) error {
	ctx, cancel := context.WithTimeout(context.Background(), l.cfg.Timeout)
	defer cancel()
	for {
		conn, reused, err := l.writer(ctx)
		var h *head
		if err == nil {
			h, err = l.lock(ctx, conn, b)
		}
		if err != nil {
			l.drop()
			var unavailable *UnavailableError
			if err = classify(err); reused && errors.As(err, &unavailable) && ctx.Err() == nil {
				continue
			}
			return err
		}
		failpoint.Hit("P1")
		if err = l.commit(ctx, conn, b, h); err != nil {
			l.drop()
		}
		return classify(err)
	}
}

// head is what the log was when it was locked, with what concerns the batch.
type head struct {
	entries, gaps int64
	known         map[[32]byte]known
	last          map[[32]byte]int64 // highest version of a task
}

// known is an entry that the log has, or that the batch adds.
type known struct {
	seq     int64
	content []byte
}

// lock begins the transaction, waits for the head and reads what the batch is
// compared with. Each statement sees all that was committed before it began.
func (l *Ledger) lock(ctx context.Context, conn *pgx.Conn, b *batch) (*head, error) {
	keys, tasks := make([][]byte, 0, len(b.claims)), [][]byte{}
	for _, c := range b.claims {
		keys = append(keys, c.key[:])
		if c.Task != "" {
			task := keyOf(c.Source, c.Task)
			tasks = append(tasks, task[:])
		}
	}
	h := &head{known: map[[32]byte]known{}, last: map[[32]byte]int64{}}
	var q pgx.Batch
	q.Queue("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	q.Queue("SELECT entries, version_gaps FROM audit.head FOR UPDATE").QueryRow(func(row pgx.Row) error { return row.Scan(&h.entries, &h.gaps) })
	q.Queue("SELECT key, line FROM audit.entries WHERE key = ANY($1)", keys).Query(h.readKnown)
	q.Queue("SELECT task, last FROM audit.tasks WHERE task = ANY($1)", tasks).Query(h.readTasks)
	if err := conn.SendBatch(ctx, &q).Close(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.entries < l.acked {
		return nil, &ledger.FaultError{Err: fmt.Errorf("audit database: it has %d entries, and entry %d was acknowledged: it was restored from an older state, or is another one", h.entries, l.acked)}
	}
	return h, nil
}

func (h *head) readKnown(rows pgx.Rows) error {
	var key, line []byte
	_, err := pgx.ForEachRow(rows, []any{&key, &line}, func() error {
		seq, content, err := ledger.ReadLine(line)
		if err != nil {
			return schemaError("an entry is damaged: %v; check the log with auditor verify", err)
		}
		h.known[[32]byte(key)] = known{seq, bytes.Clone(content)}
		return nil
	})
	return err
}

func (h *head) readTasks(rows pgx.Rows) error {
	var task []byte
	var last int64
	_, err := pgx.ForEachRow(rows, []any{&task, &last}, func() error {
		h.last[[32]byte(task)] = last
		return nil
	})
	return err
}

// rows are the new entries of a batch, column by column.
type rows struct {
	seq              []int64
	key, leaf, line  [][]byte
	task, typ, actor []*int64
	tasks            [][]byte
	last             []int64
}

// commit gives each entry its outcome and makes the new ones durable. With nothing
// new it confirms those that were found: the wait of their commit may have been cancelled.
func (l *Ledger) commit(ctx context.Context, conn *pgx.Conn, b *batch, h *head) error {
	r := h.resolve(b, l.cfg.Now())
	if len(r.seq) == 0 {
		var q pgx.Batch
		q.Queue(postgres.Mark)
		q.Queue("COMMIT")
		if err := errors.Join(conn.SendBatch(ctx, &q).Close(), postgres.Confirmed(conn.PgConn())); err != nil {
			return err
		}
		l.acknowledge(b, h)
		return nil
	}
	began := time.Now()
	var q pgx.Batch
	q.Queue("INSERT INTO audit.entries (seq, key, leaf, task, type, actor, line) SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[])",
		r.seq, r.key, r.leaf, r.task, r.typ, r.actor, r.line)
	q.Queue("INSERT INTO audit.tasks (task, last) SELECT * FROM unnest($1::bytea[], $2::bigint[]) ON CONFLICT (task) DO UPDATE SET last = excluded.last", r.tasks, r.last)
	q.Queue("UPDATE audit.head SET entries = $1, version_gaps = $2", h.entries, h.gaps)
	q.Queue("SELECT pg_notify('" + channel + "', '')")
	failpoint.HitAfter("P2", func() { _ = conn.SendBatch(ctx, &q).Close() })
	q.Queue("COMMIT")
	results := conn.SendBatch(ctx, &q)
	failpoint.Hit("P3")
	for range q.Len() - 1 {
		if _, err := results.Exec(); err != nil {
			_ = results.Close() // the same error
			return err
		}
	}
	tag, err := results.Exec()
	if err = errors.Join(err, results.Close()); err != nil {
		return err
	}
	if tag.String() != "COMMIT" {
		return &UnavailableError{fmt.Errorf("COMMIT was answered %s", tag)}
	}
	if err := postgres.Confirmed(conn.PgConn()); err != nil {
		return err
	}
	failpoint.Hit("P4")
	if l.cfg.OnSync != nil {
		l.cfg.OnSync(time.Since(began), len(r.seq))
	}
	l.acknowledge(b, h)
	return nil
}

// acknowledge: the batch is durable.
func (l *Ledger) acknowledge(b *batch, h *head) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range b.claims {
		l.acked = max(l.acked, c.outcome.Seq)
	}
	l.note(h.entries, h.gaps)
}

// resolve decides for each entry in turn: known, in conflict, or new. It moves the
// head on.
func (h *head) resolve(b *batch, now time.Time) (r rows) {
	touched := map[[32]byte]bool{}
	for _, c := range b.claims {
		if was, ok := h.known[c.key]; ok {
			c.outcome = ledger.Outcome{Seq: was.seq, Duplicate: true}
			if !bytes.Equal(was.content, c.Content) {
				c.outcome = ledger.Outcome{Err: &ledger.ConflictError{Seq: was.seq}}
			}
			continue
		}
		h.entries++
		c.outcome = ledger.Outcome{Seq: h.entries}
		h.known[c.key] = known{h.entries, c.Content}
		at := now
		if !c.at.IsZero() {
			at = c.at
		}
		line := ledger.AppendLine(make([]byte, 0, len(c.Content)+80), h.entries, c.Content, at)
		leaf := sha256.Sum256(line)
		r.seq, r.key, r.leaf, r.line = append(r.seq, h.entries), append(r.key, c.key[:]), append(r.leaf, leaf[:]), append(r.line, line[:len(line)-1])
		r.task, r.typ, r.actor = append(r.task, c.task), append(r.typ, c.typ), append(r.actor, c.actor)
		if c.Task == "" {
			continue
		}
		task := keyOf(c.Source, c.Task)
		touched[task] = true
		if was := h.last[task]; c.Version != was+1 {
			c.outcome.VersionGap = &ledger.VersionGap{Last: was, Version: c.Version}
			h.gaps++
		}
		h.last[task] = max(h.last[task], c.Version)
	}
	for task := range touched {
		r.tasks, r.last = append(r.tasks, task[:]), append(r.last, h.last[task])
	}
	return r
}

// Import adds lines of another store as they are, without their line feeds; first is
// the number of the first one. It is for a log that nobody appends to meanwhile.
func (l *Ledger) Import(ctx context.Context, first int64, lines [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	b := &batch{}
	for i, line := range lines {
		c, err := claimOf(line)
		if err != nil {
			return fmt.Errorf("entry %d: %w", first+int64(i), err)
		}
		b.claims = append(b.claims, c)
	}
	conn, _, err := l.writer(ctx)
	if err != nil {
		return err
	}
	h, err := l.lock(ctx, conn, b)
	if err == nil && h.entries != first-1 {
		err = fmt.Errorf("the database has %d entries, and the next one is %d: another auditor appends; stop it", h.entries, first)
	}
	if err == nil {
		err = l.commit(ctx, conn, b, h)
	}
	if err != nil {
		l.drop()
		return err
	}
	for i, c := range b.claims {
		if seq := first + int64(i); c.outcome.Err != nil || c.outcome.Seq != seq {
			return schemaError("entry %d is the event of entry %d again", seq, c.outcome.Seq)
		}
	}
	return nil
}

// claimOf is the claim that leads to the line again.
func claimOf(line []byte) (*claim, error) {
	e, err := ledger.ParseLine(line)
	if err != nil {
		return nil, err
	}
	c, err := newClaim(e)
	if err != nil {
		return nil, err
	}
	c.at = e.AuditedAt
	if again := ledger.AppendLine(nil, e.Seq, c.Content, c.at); !bytes.Equal(again[:len(again)-1], line) {
		return nil, errors.New("the line is not as this program writes it")
	}
	return c, nil
}
