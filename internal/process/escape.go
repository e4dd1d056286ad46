package process

import (
	"log/slog"
	"strconv"
	"strings"
	"unicode"
)

// escapeMessage quotes a message that contains control characters: the text
// handler writes messages as they are, and the notifier's contain user input.
func escapeMessage(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 || a.Key != slog.MessageKey || !strings.ContainsFunc(a.Value.String(), unicode.IsControl) {
		return a
	}
	return slog.String(a.Key, strconv.Quote(a.Value.String()))
}
