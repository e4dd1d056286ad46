package process

import (
	"log/slog"
	"strconv"
	"strings"
	"unicode"
)

// escapeMessage quotes a message that would not show as it is written: the text
// handler writes messages as they are, and the notifier's contain user input.
// It quotes the values of attributes itself.
func escapeMessage(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 || a.Key != slog.MessageKey || !strings.ContainsFunc(a.Value.String(), deceives) {
		return a
	}
	return slog.String(a.Key, strconv.Quote(a.Value.String()))
}

// deceives reports control characters, separators of lines, and characters that
// reorder text or show nothing. The two joiners are part of scripts and emoji.
func deceives(r rune) bool {
	return !unicode.IsGraphic(r) && r != 0x200c && r != 0x200d
}
