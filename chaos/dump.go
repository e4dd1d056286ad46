package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // driver of the Task API's PostgreSQL
	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	_ "modernc.org/sqlite" // driver of the Task API's file

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// cloudEvent is a structured CloudEvent, decoded without the code under test.
type cloudEvent struct {
	ID      string          `json:"id"`
	Source  string          `json:"source"`
	Type    string          `json:"type"`
	Subject string          `json:"subject"`
	Version int64           `json:"taskversion"`
	Nonce   string          `json:"correlationid"`
	Data    json.RawMessage `json:"data"`
}

// dumpTopics reads every record from offset 0, outside of any group.
func (y *system) dumpTopics(ctx context.Context) error {
	f, err := y.file("topic.jsonl")
	if err != nil {
		return err
	}
	for p := range y.partitions() {
		if err := y.dumpPartition(ctx, topic, p, f); err != nil {
			return err
		}
	}
	err = y.dumpPartition(ctx, deadLetters, 0, f)
	if errors.Is(err, kafkago.UnknownTopicOrPartition) {
		return nil // no dead letter was written
	}
	return err
}

func (y *system) dumpPartition(ctx context.Context, name string, p int, f *file) error {
	for offset, tries := int64(0), 0; ; {
		next, end, err := y.fetch(ctx, name, p, offset, f)
		switch {
		case err == nil && next >= end:
			return nil
		case err == nil:
			tries = 0
		case tries == 5 || ctx.Err() != nil:
			return fmt.Errorf("dump %s/%d at %d: %w", name, p, offset, err)
		default:
			tries++
			kafka.Forget(y.watch.client)
			_ = retry.Pause(ctx, time.Second) // its end is seen in the next try
		}
		offset = next
	}
}

func (y *system) fetch(ctx context.Context, name string, p int, offset int64, f *file) (next, end int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := y.watch.client.Fetch(ctx, &kafkago.FetchRequest{Topic: name, Partition: p, Offset: offset, MinBytes: 1, MaxBytes: 4 << 20, MaxWait: 500 * time.Millisecond})
	if err == nil {
		err = resp.Error
	}
	if err != nil {
		return offset, 0, err
	}
	for {
		rec, err := resp.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return offset, resp.HighWatermark, nil
		}
		if err != nil {
			return offset, 0, err
		}
		value, err := protocol.ReadAll(rec.Value)
		if err != nil {
			return offset, 0, err
		}
		if rec.Offset < offset {
			continue // a batch may begin before the requested offset
		}
		offset = rec.Offset + 1
		out := check.Record{Topic: name, Partition: p, Offset: rec.Offset}
		for _, h := range rec.Headers {
			if h.Key == "dlq-group" {
				out.Group = string(h.Value)
			}
		}
		e, isAvro, ok := readBinary(rec.Headers, value)
		if isAvro && name == topic {
			y.inAvro++
		}
		if !ok && !isAvro {
			ok = json.Unmarshal(value, &e) == nil && e.ID != ""
		}
		if !ok {
			out.Malformed, out.Data = true, check.Sum(value)
		} else {
			out.Source, out.Event, out.Type, out.Task, out.Version, out.Nonce, out.Data = e.Source, e.ID, e.Type, e.Subject, e.Version, e.Nonce, check.Sum(e.Data)
		}
		if err := f.write(out); err != nil {
			return offset, 0, err
		}
	}
}

func (y *system) dumpDatabase(ctx context.Context) error {
	f, err := y.file("database.jsonl")
	if err != nil {
		return err
	}
	driver, place := "sqlite", "file:"+y.path("tasks.db")
	if y.postgres != nil {
		driver, place = "pgx", y.postgres.url()+"&search_path=taskapi"
	}
	db, err := sql.Open(driver, place)
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, `SELECT o.event, u.id IS NOT NULL FROM outbox o LEFT JOIN unpublished u ON u.id = o.id ORDER BY o.id`)
	if err != nil {
		return fmt.Errorf("dump the outbox: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var body []byte
		r := check.Row{Table: check.TableEvent}
		if err := rows.Scan(&body, &r.Waiting); err != nil {
			return err
		}
		var e cloudEvent
		if err := json.Unmarshal(body, &e); err != nil {
			return fmt.Errorf("dump the outbox: %w", err)
		}
		r.Task, r.Version, r.Source, r.Event, r.Nonce, r.Data = e.Subject, e.Version, e.Source, e.ID, e.Nonce, check.Sum(e.Data)
		if err := f.write(r); err != nil {
			return err
		}
	}
	return errors.Join(rows.Err(), dumpTasks(ctx, db, f))
}

func dumpTasks(ctx context.Context, db *sql.DB, f *file) error {
	rows, err := db.QueryContext(ctx, `SELECT id, version FROM task`)
	if err != nil {
		return fmt.Errorf("dump the tasks: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		r := check.Row{Table: check.TableTask}
		if err := rows.Scan(&r.Task, &r.Version); err != nil {
			return err
		}
		if err := f.write(r); err != nil {
			return err
		}
	}
	return rows.Err()
}

// dumpLastCommits reads the committed offsets after every bridge has stopped.
func (y *system) dumpLastCommits(ctx context.Context) error {
	var err error
	for range 5 {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		var committed, ends map[int]int64
		committed, ends, err = y.watch.offsets(attempt, auditGroup)
		cancel()
		if err != nil {
			kafka.Forget(y.watch.client)
			_ = retry.Pause(ctx, time.Second) // its end is seen in the next try
			continue
		}
		at := y.clock.now()
		for p, o := range committed {
			// A partition without records has no committed offset.
			if ends[p] > 0 {
				err = errors.Join(err, y.watch.commits.write(check.Commit{Partition: p, Offset: o, At: at, Final: true, Log: ends[p]}))
			}
		}
		return err
	}
	return fmt.Errorf("dump the last committed offsets: %w", err)
}
