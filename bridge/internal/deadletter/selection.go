package deadletter

import (
	"fmt"
	"slices"
	"time"
)

// Selection chooses letters. Each member that is set must match; of a list, one
// entry is enough. The zero value chooses all.
type Selection struct {
	IDs      []string  `json:"ids,omitempty"` // of events, or PARTITION/OFFSET of letters
	Types    []string  `json:"types,omitempty"`
	Reasons  []string  `json:"reasons,omitempty"`
	Statuses []int     `json:"statuses,omitempty"` // of the last answer, 0 for none
	Keys     []string  `json:"keys,omitempty"`
	Since    time.Time `json:"since,omitzero"` // of the last failure
	Until    time.Time `json:"until,omitzero"` // not included
}

// Empty reports whether it chooses all letters.
func (s Selection) Empty() bool {
	return len(s.IDs)+len(s.Types)+len(s.Reasons)+len(s.Statuses)+len(s.Keys) == 0 && s.Since.IsZero() && s.Until.IsZero()
}

// Match reports whether l is chosen.
func (s Selection) Match(l Stored) bool {
	return (in(s.IDs, l.ID) || in(s.IDs, l.Place())) && in(s.Types, l.Type) && in(s.Reasons, l.Letter.Reason) && in(s.Statuses, l.Letter.Status) &&
		in(s.Keys, string(l.Record.Key)) && (s.Since.IsZero() || !l.Letter.Last.Before(s.Since)) && (s.Until.IsZero() || l.Letter.Last.Before(s.Until))
}

func in[T comparable](list []T, v T) bool { return len(list) == 0 || slices.Contains(list, v) }

// Reasons are the values of dlq-reason.
func Reasons() []string { return []string{Rejected, Exhausted, Malformed, Expired, Skipped} }

// maxEntries bounds a selection: each letter is compared with each entry.
const maxEntries = 200

// Check returns what is wrong with it.
func (s Selection) Check() error {
	if n := len(s.IDs) + len(s.Types) + len(s.Reasons) + len(s.Statuses) + len(s.Keys); n > maxEntries {
		return fmt.Errorf("the selection has %d entries, at most %d are allowed", n, maxEntries)
	}
	for _, r := range s.Reasons {
		if !slices.Contains(Reasons(), r) {
			return fmt.Errorf("reason: want one of %v", Reasons())
		}
	}
	if !s.Since.IsZero() && !s.Until.IsZero() && !s.Since.Before(s.Until) {
		return fmt.Errorf("until: want a time after since")
	}
	return nil
}
