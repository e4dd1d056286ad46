package process

import (
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"github.com/taskwire/taskwire/internal/env"
)

// LogSettings reads LOG_FORMAT and LOG_LEVEL and ignores wrong values: the
// service's own FromEnv reports them, and it runs after the logger is made.
func LogSettings(lookup env.Lookup) (format, level string) {
	r := env.NewReader(lookup)
	return r.String("LOG_FORMAT", "auto"), r.String("LOG_LEVEL", "info")
}

// NewLogger writes one line per record to w, with service as its first
// attribute: JSON, or coloured text when format is text, or auto and w is a
// terminal. Both escape line feeds in values, so user input never adds a line.
func NewLogger(w io.Writer, format, level, service string) *slog.Logger {
	at := new(slog.LevelVar)
	if err := at.UnmarshalText([]byte(level)); err != nil {
		at.Set(slog.LevelInfo)
	}
	f, isFile := w.(*os.File)
	terminal := isFile && term.IsTerminal(int(f.Fd()))
	var h slog.Handler
	if format == "text" || (format != "json" && terminal) {
		h = tint.NewTextHandler(w, &tint.Options{Level: at, TimeFormat: time.TimeOnly, NoColor: !terminal, ReplaceAttr: escapeMessage})
	} else {
		h = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: at})
	}
	return slog.New(leveled{h, at}).With("service", service)
}

// leveled is a handler whose level can be changed, also through those made from it.
type leveled struct {
	slog.Handler
	level *slog.LevelVar
}

// LogLevel is for the operator port.
func (l leveled) LogLevel() *slog.LevelVar { return l.level }

// WithAttrs implements slog.Handler.
func (l leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return leveled{l.Handler.WithAttrs(attrs), l.level}
}

// WithGroup implements slog.Handler.
func (l leveled) WithGroup(name string) slog.Handler {
	return leveled{l.Handler.WithGroup(name), l.level}
}
