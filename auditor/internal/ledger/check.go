package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/index"
	"github.com/taskwire/taskwire/internal/retry"
)

// checking is how far the background check is.
type checking struct {
	to   index.Head // what Open did not read
	done atomic.Int64
}

// Checked returns how many bytes of the log were checked since Open, and how many
// there are to check: those that Open did not read. They are equal when the check
// is over.
func (l *Ledger) Checked() (done, total int64) { return l.checking.done.Load(), l.checking.to.End }

// runCheck reads the part of the log that Open took on the word of the index, and
// holds every line to the format and to the index:
//
//	the line is not one of ours       damage: the ledger fails, as Open would have
//	the number is not the next one    the same
//	the index does not have it        the index is removed, and the ledger fails: the
//	                                  next start makes it again
//
// What was answered before that stays true: new entries were durable, and
// duplicates were compared with their lines. An event whose line is damaged may
// have been written again, as when its line had been lost.
func (l *Ledger) runCheck(ctx context.Context) {
	err := l.check(ctx)
	if err != nil && ctx.Err() == nil {
		l.fail(&FaultError{fmt.Errorf("audit log: %w", err)})
	}
}

func (l *Ledger) check(ctx context.Context) error {
	to := l.checking.to
	r := newLineReader(&l.segments, 0, to.End, nil, 256<<10)
	pace := pace{l: l}
	for seq := int64(1); seq <= to.Seq; seq++ {
		line, at, err := r.next()
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errUnfinished) && !errors.Is(err, errTooLong) {
			return fmt.Errorf("read %s: %w", l.cfg.Path, err)
		}
		if err != nil {
			return l.damage(at, err.Error())
		}
		if err := l.checkLine(seq, at, line); err != nil {
			return err
		}
		l.checking.done.Store(at + int64(len(line)) + 1)
		if seq%256 == 0 {
			l.checked()
			if err := pace.rest(ctx); err != nil {
				return err
			}
		}
	}
	l.checked()
	return nil
}

func (l *Ledger) checked() {
	if l.cfg.OnCheck != nil {
		l.cfg.OnCheck(l.Checked())
	}
}

func (l *Ledger) checkLine(seq, at int64, line []byte) error {
	r, err := readRecord(line)
	var mistake *LineError
	if errors.As(err, &mistake) {
		return l.damage(at+int64(mistake.Byte), mistake.Reason)
	}
	if r.seq != seq {
		return l.damage(at, fmt.Sprintf("entry %d follows entry %d", r.seq, seq-1))
	}
	seqs, err := l.index.Find(l.index.HashEvent(r.source, r.id))
	if err != nil {
		return err
	}
	found := false
	for _, other := range seqs {
		if other == seq {
			found = true
			continue
		}
		o, err := l.recordAt(other)
		if err != nil {
			return err
		}
		if other < seq && bytes.Equal(o.id, r.id) && bytes.Equal(o.source, r.source) {
			return l.damage(at, fmt.Sprintf("entry %d is the event of entry %d again", seq, other))
		}
	}
	if !found {
		return l.index.Broken(fmt.Errorf("entry %d is missing", seq))
	}
	return nil
}

// pace keeps the check from taking disk and processors from the appends.
type pace struct {
	l       *Ledger
	began   time.Time
	entries int64
}

// rest sleeps twice as long as the check worked, and 20 times as long when
// something was appended meanwhile.
func (p *pace) rest(ctx context.Context) error {
	worked := time.Since(p.began)
	entries := p.l.Len()
	factor := time.Duration(2)
	if entries != p.entries {
		factor = 20
	}
	if !p.began.IsZero() {
		if err := retry.Pause(ctx, min(factor*worked, time.Second)); err != nil {
			return err
		}
	}
	p.began, p.entries = time.Now(), entries
	return ctx.Err()
}
