package console

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/pump"
)

func words() template.FuncMap {
	return template.FuncMap{
		"clean": brief, "stamp": stamp, "utc": utc, "clock": clock, "ago": ago, "short": short, "took": took, "seconds": seconds, "count": countAny, "esc": url.PathEscape, "query": url.QueryEscape,
		"add": func(a, b int64) int64 { return a + b }, "dict": dict, "join": strings.Join, "plural": func(n any, one, many string) string { return plural(whole(n), one, many) },
	}
}

// clean spells out what could reorder, hide or break text; line feeds and tabs stay.
func clean(s string) string {
	ok := func(r rune) bool { return r == '\n' || r == '\t' || unicode.IsPrint(r) && r != utf8.RuneError }
	if !strings.ContainsFunc(s, func(r rune) bool { return !ok(r) }) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case ok(r):
			b.WriteRune(r)
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, "\\x%02x", s[i])
		default:
			fmt.Fprintf(&b, "\\u{%x}", r)
		}
	}
	return b.String()
}

// stamp is a time for machines and for title.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// utc is a time for readers who compare it with others.
func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 UTC") }

// clock is its time of day in UTC.
func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// ago is a time relative to now, as the script writes it, too.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d, form := now.Sub(t), "%s ago"
	if d < 0 {
		d, form = -d, "in %s"
	}
	if d < time.Second && t.After(now) {
		return "now"
	}
	if d < time.Second {
		return "just now"
	}
	return fmt.Sprintf(form, seconds(d.Seconds()))
}

// seconds is a length of time in one unit.
func seconds(s float64) string {
	switch {
	case s < 1:
		return strconv.Itoa(int(math.Round(s*1000))) + " ms"
	case s < 100:
		return strconv.Itoa(int(math.Round(s))) + " s"
	case s < 100*60:
		return strconv.Itoa(int(math.Round(s/60))) + " min"
	case s < 72*3600:
		return strconv.Itoa(int(math.Round(s/3600))) + " h"
	}
	return strconv.Itoa(int(math.Round(s/86400))) + " days"
}

func took(d time.Duration) string {
	if d < time.Millisecond {
		return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 1, 64) + " ms"
	}
	return seconds(d.Seconds())
}

// short keeps the beginning and the end of an id, which is where UUIDv7 differ.
func short(id string) string {
	if len(id) <= 14 {
		return clean(id)
	}
	return clean(id[:4]) + "…" + clean(id[len(id)-6:])
}

// count groups the digits of a number.
func count[T int | int64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func countAny(n any) string { return count(whole(n)) }

// whole is a number of a template.
func whole(n any) int64 {
	switch n := n.(type) {
	case int:
		return int64(n)
	case int64:
		return n
	}
	return 0
}

func plural[T int | int64](n T, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

func dict(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}

const (
	maxBrief = 2 << 10  // bytes of an id, an error or the value of a header
	maxText  = 64 << 10 // bytes of a record or a line
	maxDepth = 32       // of JSON that is set out: each level makes all lines in it longer
)

// brief is clean text that fits a line or two of a page.
func brief(s string) string {
	if len(s) > maxBrief {
		return clean(s[:maxBrief]) + "… (" + plural(len(s), "byte", "bytes") + ")"
	}
	return clean(s)
}

// long is clean text that fits a page.
func long(s string) string {
	if len(s) > maxText {
		return clean(s[:maxText]) + fmt.Sprintf("\n… the first %s of %s bytes are shown", count(maxText), count(len(s)))
	}
	return clean(s)
}

// pretty is JSON with line breaks, its numbers as they are; anything else is as it is.
func pretty(text []byte) string {
	var out bytes.Buffer
	if len(text) > maxText || depth(text) > maxDepth || json.Indent(&out, text, "", "  ") != nil {
		return long(string(text))
	}
	return clean(out.String())
}

// depth is how many arrays and objects of JSON are within each other.
func depth(text []byte) (deepest int) {
	level, inText := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

const maxHex = 16 << 10

func hexdump(b []byte) string {
	if len(b) > maxHex {
		return hex.Dump(b[:maxHex]) + fmt.Sprintf("… %s of %s bytes are shown\n", count(maxHex), count(len(b)))
	}
	return hex.Dump(b)
}

// why says in one sentence why a subscription does not move, or that it does. state
// is one word for it.
func why(v pump.View, j *journal.Journal, now time.Time) (state, sentence string) {
	waits, lag := (*pump.PartitionView)(nil), int64(0)
	for i := range v.Partitions {
		p := &v.Partitions[i]
		lag += p.Lag
		if p.Blocking != nil && (waits == nil || p.Oldest != nil && waits.Oldest != nil && *p.Oldest > *waits.Oldest) {
			waits = p
		}
	}
	switch {
	case v.Paused != nil && v.Paused.By != "":
		return "paused", fmt.Sprintf("%s paused it %s: %s.", clean(v.Paused.By), ago(v.Paused.At, now), strings.TrimSuffix(clean(v.Paused.Reason), "."))
	case v.State == "paused":
		return "waiting", "It waits: " + clean(v.Reason) + "."
	case waits != nil:
		return "stuck", stuck(v.Name, waits, j, now)
	case v.State != "stable" && v.State != "idle":
		s := "The consumer group is " + v.State + "."
		if v.Reason != "" {
			s += " " + clean(v.Reason)
		}
		return "waiting", s
	case v.Reason != "":
		return "waiting", "It waits: " + clean(v.Reason) + "."
	case v.Alone:
		return "unknown", "Nothing is known of the topic: the brokers do not answer."
	case lag > 0:
		return "moving", plural(lag, "event is", "events are") + " on the way."
	}
	return "up to date", "Everything on the topic is delivered."
}

func stuck(name string, p *pump.PartitionView, j *journal.Journal, now time.Time) string {
	b := p.Blocking
	s := fmt.Sprintf("Partition %d waits at offset %d", p.Partition, b.Offset)
	if b.Key != "" && !strings.HasPrefix(b.Key, "\x00") {
		s += ", key " + clean(b.Key)
	}
	s += ": " + strings.TrimPrefix(clean(b.Reason), "sink answered ")
	if strings.HasPrefix(b.Reason, "sink answered ") {
		s = strings.Replace(s, ": ", ": the sink answered ", 1)
	}
	if b.Attempts > 0 {
		s += ". " + plural(b.Attempts, "attempt", "attempts") + " so far"
	}
	next := time.Time{}
	j.Backwards(func(step *journal.Step) bool {
		if step.Subscription == name && step.Partition == p.Partition && step.Offset == b.Offset && step.Kind == journal.Attempted {
			next = step.Next
			return false
		}
		return true
	})
	if next.After(now) {
		s += ", the next " + ago(next, now)
	}
	return s + "."
}
