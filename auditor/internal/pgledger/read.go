package pgledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/postgres"
)

// Find calls yield with the entries after that number which match, in order, until
// it returns false. Everything up to through was looked at.
//
// Entries become visible in the order of their numbers, since each auditor holds
// the head until its commit is visible; so nothing is found later below through.
func (l *Ledger) Find(ctx context.Context, after int64, f ledger.Filter, yield func(p ledger.Place, line []byte) bool) (through int64, err error) {
	end, err := l.End(ctx)
	if err != nil {
		return after, err
	}
	matcher := f.Matcher()
	where, args := conditions(f)
	through = max(after, 0)
	for limit := 32; ; limit = min(2*limit, 512) {
		var n int
		var stopped bool
		err := l.again(ctx, func() error {
			rows, err := l.pool.Query(ctx, "SELECT seq, line FROM audit.entries WHERE seq > $1 AND seq <= $2"+where+fmt.Sprintf(" ORDER BY seq LIMIT %d", limit),
				append([]any{through, end}, args...)...)
			if err == nil {
				n, stopped, err = scan(rows, matcher, &through, yield) // moves through on
			}
			return err
		})
		switch {
		case err != nil:
			return through, fmt.Errorf("read the audit database: %w", err)
		case stopped:
			return through, nil
		case n < limit:
			return max(through, end), nil
		}
	}
}

// again repeats what failed because a connection that was kept has died: there may
// be as many of those as there are connections.
func (l *Ledger) again(ctx context.Context, do func() error) (err error) {
	for range readers + 1 {
		err = do()
		if code := postgres.Code(err); ctx.Err() != nil || !postgres.Unavailable(err) || code != "" && !strings.HasPrefix(code, "57P") {
			return err
		}
	}
	return err
}

// row is the one row of a query.
func (l *Ledger) row(ctx context.Context, query string, args []any, into ...any) error {
	return l.again(ctx, func() error { return l.pool.QueryRow(ctx, query, args...).Scan(into...) })
}

func scan(rows pgx.Rows, m *ledger.Matcher, through *int64, yield func(p ledger.Place, line []byte) bool) (n int, stopped bool, err error) {
	defer rows.Close()
	var seq int64
	var line []byte
	for ; rows.Next(); n++ {
		if err := rows.Scan(&seq, &line); err != nil {
			return n, false, err
		}
		matched, err := m.Match(line)
		if err != nil {
			return n, false, fmt.Errorf("entry %d: %w", seq, err)
		}
		if matched && !yield(ledger.Place{Seq: seq, Length: int64(len(line))}, line) {
			return n, true, nil
		}
		*through = seq
	}
	return n, false, rows.Err()
}

// conditions uses the index that is likely to find the least, and leaves the rest
// to the matcher.
func conditions(f ledger.Filter) (where string, args []any) {
	switch {
	case f.TaskID != "":
		return " AND task = $3", []any{*narrow(f.TaskID)}
	case f.Actor != "" && f.Type != "":
		return " AND actor = $3 AND type = $4", []any{*narrow(f.Actor), *narrow(f.Type)}
	case f.Actor != "":
		return " AND actor = $3", []any{*narrow(f.Actor)}
	case f.Type != "":
		return " AND type = $3", []any{*narrow(f.Type)}
	}
	return "", nil
}

// End is the number of the last entry as the database has it now. All up to it are
// visible to whoever asks after that.
func (l *Ledger) End(ctx context.Context) (entries int64, err error) {
	var gaps int64
	if err := l.row(ctx, "SELECT entries, version_gaps FROM audit.head", nil, &entries, &gaps); err != nil {
		return 0, &UnavailableError{err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note(entries, gaps)
	return entries, nil
}

// Place is where an entry is, or ledger.ErrNotFound.
func (l *Ledger) Place(ctx context.Context, seq int64) (ledger.Place, error) {
	p := ledger.Place{Seq: seq}
	err := l.row(ctx, "SELECT octet_length(line) FROM audit.entries WHERE seq = $1", []any{seq}, &p.Length)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ledger.Place{}, ledger.ErrNotFound
	case err != nil:
		return ledger.Place{}, &UnavailableError{err}
	}
	return p, nil
}

// Text reads the entry or a part of it, a piece at a time.
func (l *Ledger) Text(ctx context.Context, p ledger.Place) io.Reader {
	return &text{read: func(offset, length int64) (b []byte, err error) {
		err = l.row(ctx, "SELECT substr(line, $2, $3) FROM audit.entries WHERE seq = $1", []any{p.Seq, offset + 1, length}, &b)
		return b, err
	}, at: p.Offset, end: p.Offset + p.Length}
}

type text struct {
	read    func(offset, length int64) ([]byte, error)
	at, end int64
	piece   []byte
}

const pieceBytes = 256 << 10

func (t *text) Read(b []byte) (int, error) {
	if len(t.piece) == 0 {
		if t.at == t.end {
			return 0, io.EOF
		}
		piece, err := t.read(t.at, min(pieceBytes, t.end-t.at))
		if err == nil && len(piece) == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, fmt.Errorf("read the audit database: %w", err)
		}
		t.piece, t.at = piece, t.at+int64(len(piece))
	}
	n := copy(b, t.piece)
	t.piece = t.piece[n:]
	return n, nil
}

// Lines reads the whole log of a database without opening it for appending, and
// calls yield with each line after that number. It returns the number of the last one.
func Lines(ctx context.Context, database postgres.Config, after int64, yield func(seq int64, line []byte) error) (last int64, err error) {
	conn, err := postgres.Connect(ctx, database)
	if err != nil {
		return after, err
	}
	defer shut(conn)
	for {
		rows, err := conn.Query(ctx, "SELECT seq, line FROM audit.entries WHERE seq > $1 ORDER BY seq LIMIT 1000", after)
		if err != nil {
			return after, err
		}
		var seq int64
		var line []byte
		n := 0
		if _, err := pgx.ForEachRow(rows, []any{&seq, &line}, func() error {
			n, after = n+1, seq
			return yield(seq, line)
		}); err != nil || n == 0 {
			return after, err
		}
	}
}
