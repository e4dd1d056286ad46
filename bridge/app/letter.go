package app

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// selectFlags adds the flags that choose letters. --reason is what the letter
// says, except where an operator gives one of his own.
func selectFlags(flags *flag.FlagSet, s *deadletter.Selection, reason bool) {
	list := func(to *[]string, name, usage string) {
		flags.Func(name, usage+"; may be repeated", func(v string) error { *to = append(*to, v); return nil })
	}
	list(&s.IDs, "id", "event id, or PARTITION/OFFSET of a letter")
	list(&s.Types, "type", "event type")
	list(&s.Keys, "key", "record key")
	list(&s.Reasons, "dlq-reason", fmt.Sprintf("why it is a letter: one of %v", deadletter.Reasons()))
	if reason {
		list(&s.Reasons, "reason", "the same as --dlq-reason")
	}
	flags.Func("status", "status of the sink's last answer, 0 for none; may be repeated", func(v string) error {
		n, err := strconv.Atoi(v)
		s.Statuses = append(s.Statuses, n)
		return err
	})
	at := func(to *time.Time, name, usage string) {
		flags.Func(name, usage+": an RFC 3339 time, or how long ago, such as 2h", func(v string) error {
			if ago, err := time.ParseDuration(v); err == nil {
				*to = time.Now().Add(-ago)
				return nil
			}
			t, err := time.Parse(time.RFC3339, v)
			*to = t
			return err
		})
	}
	at(&s.Since, "since", "failed last at this time or later")
	at(&s.Until, "until", "failed last before this time")
}

// printLetter prints everything there is about a letter. JSON escapes what a
// terminal would obey.
func printLetter(w io.Writer, topic string, l deadletter.Stored, done bool) error {
	headers := map[string]string{}
	for _, h := range l.Record.Headers {
		headers[h.Key] = string(h.Value)
	}
	out := map[string]any{"topic": topic, "partition": l.Partition, "offset": l.Offset, "done": done, "id": l.ID, "type": l.Type,
		"key": string(l.Record.Key), "headers": headers, "value": string(l.Record.Value)}
	switch {
	case json.Valid(l.Record.Value):
		out["value"] = json.RawMessage(l.Record.Value)
	case !utf8.Valid(l.Record.Value):
		delete(out, "value")
		out["value_base64"] = l.Record.Value
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(escaped(text), '\n'))
	return err
}

// escaped replaces the characters of a JSON text that are not printable by their
// escapes: outside of strings there are none.
func escaped(text []byte) []byte {
	var out []byte
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf && r != 0x7f, r != utf8.RuneError && unicode.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			a, b := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, a, b)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
