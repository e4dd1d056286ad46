package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/process"
)

// producers holds the lines of a log to the signatures of those who made the events.
type producers struct {
	file string // of the keys
	keys eventsign.Keys
	from int64 // lines before may be unsigned, but not wrongly signed

	signed, foreign       int64 // lines whose signature is right; lines of a source without keys
	firstSigned, firstFor int64
	bad                   []*unproved // the first of each reason
}

// An unproved line is not the word of its event's source.
type unproved struct {
	reason eventsign.Reason // "" when the line is no entry
	first  string           // where the first one is, and why
	count  int64
	last   int64
}

// openProducers returns nil without a file of keys.
func openProducers(file string, from int64) (*producers, error) {
	switch {
	case file == "" && from != 1:
		return nil, process.Usagef("--signed-from needs --event-keys")
	case file == "":
		return nil, nil //nolint:nilnil // nil is a producers that checks nothing
	case from < 1:
		return nil, process.Usagef("--signed-from: want the number of a line, 1 or more")
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, process.Usagef("--event-keys: %v; want a file as for %s", err, verifyKeysFile)
	}
	keys, err := eventsign.ParseKeys(content)
	if err != nil {
		return nil, process.Usagef("--event-keys: %s: %v", file, err)
	}
	return &producers{file: file, keys: keys, from: from}, nil
}

// check verifies the lines of a block, by one goroutine for each processor: a
// signature costs many times what the hash of a line does.
func (p *producers) check(b *ledger.Block) {
	if p == nil {
		return
	}
	lines := make([]signedLine, 0, b.Count)
	b.Each(func(i int, line []byte, at int64) bool {
		lines = append(lines, signedLine{number: b.First + int64(i), at: at, text: line})
		return true
	})
	var wg sync.WaitGroup
	for part := range slices.Chunk(lines, max(1, (len(lines)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))) {
		wg.Go(func() {
			for i := range part {
				part[i].signed, part[i].err = p.keys.VerifyLine(part[i].text)
			}
		})
	}
	wg.Wait()
	for i := range lines {
		p.count(b.File, &lines[i])
	}
}

type signedLine struct {
	number, at int64
	text       []byte
	signed     bool
	err        error
}

func (p *producers) count(file string, l *signedLine) {
	var failed *eventsign.Error
	errors.As(l.err, &failed)
	switch {
	case l.err == nil && l.signed:
		if p.signed++; p.signed == 1 {
			p.firstSigned = l.number
		}
		return
	case l.err == nil:
		if p.foreign++; p.foreign == 1 {
			p.firstFor = l.number
		}
		return
	case failed == nil:
		failed = &eventsign.Error{}
	case failed.Reason == eventsign.Missing && l.number < p.from:
		return
	}
	i := slices.IndexFunc(p.bad, func(u *unproved) bool { return u.reason == failed.Reason })
	if i < 0 {
		i, p.bad = len(p.bad), append(p.bad, &unproved{reason: failed.Reason, first: fmt.Sprintf("%s: line %d (byte %d): %s", file, l.number, l.at, l.explain())})
	}
	p.bad[i].count++
	p.bad[i].last = l.number
}

// explain says whose event it is, and with what key it says that it was signed.
func (l *signedLine) explain() string {
	e, err := ledger.ParseLine(l.text[:len(l.text)-1])
	if err != nil {
		return l.err.Error()
	}
	text := fmt.Sprintf("event %q of source %q: %v", e.ID, e.Source, l.err)
	if signature, ok := e.Attribute(eventsign.Attribute).(string); ok {
		text += fmt.Sprintf(" (%.24q)", signature) // scheme and key id
	}
	return text
}

// report prints which lines are not their producers' word, and says whether some are.
// A line that is no entry is reported by others.
func (p *producers) report(to io.Writer, entries bool) bool {
	if p == nil {
		return false
	}
	found := false
	for _, u := range p.bad {
		if u.reason == "" && !entries {
			continue
		}
		found = true
		more := ""
		if u.count > 1 {
			more = fmt.Sprintf("; so are %d more, the last is line %d", u.count-1, u.last)
		}
		fmt.Fprintf(to, "%s%s\n", u.first, more)
		if u.reason == eventsign.Missing && p.signed > 0 && u.last < p.firstSigned {
			fmt.Fprintf(to, "if events are signed since line %d only: --signed-from %d\n", u.last+1, u.last+1)
		}
	}
	if !found && p.signed == 0 && p.foreign > 0 {
		fmt.Fprintf(to, "%s has no key for the source of any line: the name before each key must be the source of the events\n", p.file)
		return true
	}
	return found
}

func (p *producers) ok(to io.Writer) {
	if p == nil {
		return
	}
	fmt.Fprintf(to, "ok: %d lines carry the signature of their events' source", p.signed)
	if p.foreign > 0 {
		fmt.Fprintf(to, "; %d are of sources without a key in %s, the first is line %d", p.foreign, p.file, p.firstFor)
	}
	fmt.Fprintln(to)
}
