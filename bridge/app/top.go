package app

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/internal/retry"
)

const topUsage = "usage: bridge top [--interval 2s] [--once] [--admin URL]"

// top shows all subscriptions of the group that the asked bridge is in, again and
// again on a terminal, else once.
func top(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("top", flag.ContinueOnError)
	flags.SetOutput(stderr)
	api := newAdminAPI(flags, lookup)
	interval := flags.Duration("interval", 2*time.Second, "between two looks, at least 200ms")
	once := flags.Bool("once", false, "print once, also on a terminal")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 || *interval < 200*time.Millisecond {
		return process.Usagef(topUsage)
	}
	look := func() (views []pump.View, err error) {
		var answer struct{ Subscriptions []pump.View }
		err = api.ask(ctx, http.MethodGet, "/subscriptions", nil, &answer)
		return answer.Subscriptions, err
	}
	screen, live := stdout.(*os.File)
	if *once || !live || !term.IsTerminal(int(screen.Fd())) {
		views, err := look()
		if err != nil {
			return err
		}
		_, err = io.WriteString(stdout, strings.Join(tables(views, false), "\n")+"\n")
		return err
	}
	return api.watch(ctx, screen, *interval, look)
}

// Of a terminal: another screen, without a cursor, that cuts long lines; and back.
const (
	enter = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	leave = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// watch draws until ctx ends. While the bridge does not answer it shows why, above
// what was known last.
func (c *adminAPI) watch(ctx context.Context, screen *os.File, interval time.Duration, look func() ([]pump.View, error)) error {
	if _, err := io.WriteString(screen, enter); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(screen, leave) }()
	var known []pump.View
	for {
		views, err := look()
		if ctx.Err() != nil {
			return nil
		}
		head := spelt(c.url) + "  " + time.Now().UTC().Format(time.DateTime) + "Z"
		if err != nil {
			head += "  " + spelt(err.Error())
		} else {
			known = views
		}
		width, height, err := term.GetSize(int(screen.Fd()))
		if err != nil {
			width, height = 80, 24
		}
		if _, err := io.WriteString(screen, frame(head, known, width, height)); err != nil {
			return err
		}
		if retry.Pause(ctx, interval) != nil {
			return nil // a signal is how it ends
		}
	}
}

// frame is what to write to a terminal of this size.
func frame(head string, views []pump.View, width, height int) string {
	lines := append([]string{head, ""}, tables(views, false)...)
	if len(lines) > height {
		lines = append([]string{head, ""}, tables(views, true)...)
	}
	if len(lines) > height {
		lines = append(lines[:max(0, height-1)], fmt.Sprintf("%d more lines: make the window higher, or use bridge top --once", len(lines)-height+1))
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(cut(line, width) + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	return b.String()
}

// cut keeps the first runes of a line.
func cut(line string, width int) string {
	n := 0
	for i := range line {
		if n == width {
			return line[:i]
		}
		n++
	}
	return line
}

const row = "%11s %11s %11s %9s %9s %8s  %-24s %s"

// tables are the lines about all subscriptions; with busy, only about partitions
// that have something to wait for.
func tables(views []pump.View, busy bool) []string {
	var lines []string
	for i, v := range views {
		if i > 0 {
			lines = append(lines, "")
		}
		lines = append(lines, summary(v)...)
		if len(v.Partitions) == 0 {
			continue
		}
		lines = append(lines, trimmed(row, "PARTITION", "COMMITTED", "END", "LAG", "IN FLIGHT", "OLDEST", "OWNER", "BLOCKED BY"))
		idle := 0
		for _, p := range v.Partitions {
			if busy && p.Lag == 0 && p.Blocking == nil {
				idle++
				continue
			}
			lines = append(lines, trimmed(row, strconv.Itoa(p.Partition), offset(p.Committed), offset(p.End), strconv.FormatInt(p.Lag, 10),
				orUnknown(p.InFlight, strconv.Itoa), orUnknown(p.Oldest, age), owner(p.Owner), block(p.Blocking)))
		}
		if idle > 0 {
			lines = append(lines, fmt.Sprintf("%11s partitions without lag are not shown", strconv.Itoa(idle)))
		}
	}
	if len(views) == 0 {
		lines = append(lines, "no subscriptions")
	}
	return lines
}

func summary(v pump.View) []string {
	var lag int64
	inFlight, oldest := 0, 0.0
	for _, p := range v.Partitions {
		lag += p.Lag
		if p.InFlight != nil {
			inFlight += *p.InFlight
		}
		if p.Oldest != nil {
			oldest = max(oldest, *p.Oldest)
		}
	}
	lines := []string{fmt.Sprintf("%s: %s, lag %d, in flight %d, oldest %s, group %s, members %d, to %s", spelt(v.Name), strings.ToUpper(spelt(v.State)), lag, inFlight, age(oldest),
		spelt(v.Group), v.Members, spelt(v.Sink))}
	switch {
	case v.Paused != nil:
		text := fmt.Sprintf("  paused by %s since %s: %s", spelt(v.Paused.By), v.Paused.At.UTC().Format(time.RFC3339), spelt(v.Paused.Reason))
		if v.Paused.Unstored != "" {
			text += "; on this bridge alone: " + spelt(v.Paused.Unstored)
		}
		lines = append(lines, text)
	case v.Reason != "":
		lines = append(lines, "  "+spelt(v.Reason))
	}
	if v.Unknown != "" {
		lines = append(lines, "  not known: "+spelt(v.Unknown))
	}
	return lines
}

func trimmed(format string, args ...any) string {
	return strings.TrimRight(fmt.Sprintf(format, args...), " ")
}

func offset(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

func orUnknown[T any](v *T, show func(T) string) string {
	if v == nil {
		return "?"
	}
	return show(*v)
}

// age shows seconds in at most two units.
func age(seconds float64) string {
	switch s := int64(min(seconds, 1e9)); {
	case s <= 0:
		return "-"
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	default:
		return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
	}
}

func owner(o *group.Owner) string {
	if o == nil {
		return "none"
	}
	return spelt(cmp.Or(o.Instance, o.Member))
}

func block(b *pump.Block) string {
	if b == nil {
		return ""
	}
	return fmt.Sprintf("offset %d, key %s, attempts %d: %s", b.Offset, strconv.Quote(b.Key), b.Attempts, spelt(b.Reason))
}

// spelt makes text of others fit for a terminal and for one line: what could move
// the cursor, or turn the direction of writing, is spelt out.
func spelt(text string) string {
	quoted := strconv.Quote(text)
	return string(bytes.ReplaceAll([]byte(quoted[1:len(quoted)-1]), []byte(`\"`), []byte(`"`)))
}
