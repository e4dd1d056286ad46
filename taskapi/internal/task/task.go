// Package task is the domain of the Task API: what a task is, how it can change
// and what each change is called. It knows neither HTTP nor a database; the
// contract that a database must keep is Store.
package task

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Status is the state of a task. Any status may follow any other: a completed
// task can be opened again.
type Status string

// The three statuses.
const (
	Pending    Status = "pending"
	InProgress Status = "in_progress"
	Completed  Status = "completed"
)

// ParseStatus accepts exactly the three statuses.
func ParseStatus(s string) (Status, error) {
	switch Status(s) {
	case Pending, InProgress, Completed:
		return Status(s), nil
	}
	return "", fmt.Errorf("must be pending, in_progress or completed")
}

// Kind names what happened to a task; it is the type of the event.
type Kind string

// The kinds of change. Unchanged emits no event.
const (
	Unchanged    Kind = ""
	WasCreated   Kind = "task.created"
	WasUpdated   Kind = "task.updated"
	WasCompleted Kind = "task.completed"
)

// MaxTitleRunes is the length of the longest title.
const MaxTitleRunes = 500

// Task is one task in one version.
type Task struct {
	ID        string // UUIDv7, so that the order of ids is the order of creation
	Title     string
	Status    Status
	OwnerID   string // lower-case uuid, "" when it has no owner
	Version   int64  // 1 when created, one more with each change
	CreatedAt time.Time
	UpdatedAt time.Time // the time of the change that made this version
}

// New is a task in its first version.
func New(id, title, ownerID string, now time.Time) Task {
	return Task{ID: id, Title: title, Status: Pending, OwnerID: ownerID, Version: 1, CreatedAt: now, UpdatedAt: now}
}

// Patch says what to change; nil leaves a field alone.
type Patch struct {
	Title   *string
	Status  *Status
	OwnerID *string // "" removes the owner
}

// Complete is the patch of POST /tasks/{id}/complete.
func Complete() Patch { return Patch{Status: new(Completed)} }

// Apply returns the next version of t and what happened to it. If p changes
// nothing, it returns t and Unchanged: no new version and no event.
func (t Task) Apply(p Patch, now time.Time) (Task, Kind) {
	next := t
	if p.Title != nil {
		next.Title = *p.Title
	}
	if p.Status != nil {
		next.Status = *p.Status
	}
	if p.OwnerID != nil {
		next.OwnerID = *p.OwnerID
	}
	if next == t {
		return t, Unchanged
	}
	next.Version++
	next.UpdatedAt = now
	if next.Status == Completed && t.Status != Completed {
		return next, WasCompleted
	}
	return next, WasUpdated
}

// ParseTitle trims s and refuses what does not stay on one line, shows in
// another order than it is written, or shows nothing at all.
func ParseTitle(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s != "" && len(s) <= MaxTitleRunes && printableASCII(s) { // nearly always
		return s, nil
	}
	switch {
	case !utf8.ValidString(s):
		return "", fmt.Errorf("must be valid UTF-8")
	case s == "":
		return "", fmt.Errorf("must not be empty")
	case utf8.RuneCountInString(s) > MaxTitleRunes:
		return "", fmt.Errorf("must have at most %d characters", MaxTitleRunes)
	case strings.ContainsFunc(s, unicode.IsControl):
		return "", fmt.Errorf("must not contain control characters")
	case strings.ContainsFunc(s, breaksLine):
		return "", fmt.Errorf("must not contain line or paragraph separators")
	case strings.ContainsFunc(s, reorders):
		return "", fmt.Errorf("must not contain characters that reorder text (bidirectional embeddings, overrides and isolates)")
	case !strings.ContainsFunc(s, visible):
		return "", fmt.Errorf("must contain a visible character")
	}
	return s, nil
}

func printableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func breaksLine(r rune) bool { return unicode.In(r, unicode.Zl, unicode.Zp) }

// reorders reports embeddings, overrides and isolates. The marks U+200E, U+200F
// and U+061C turn no text around, and text in Hebrew or Arabic needs them.
func reorders(r rune) bool { return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 }

// visible is false for what shows nothing where it stands alone. Joiners and
// variation selectors are among it; inside an emoji they are welcome.
func visible(r rune) bool {
	return !unicode.In(r, unicode.White_Space, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) &&
		r != 0x2800 // the Braille pattern without dots
}

// ParseUUID accepts the 36-character form and returns it in lower case.
func ParseUUID(s string) (string, error) {
	if len(s) != 36 {
		return "", errUUID
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return "", errUUID
			}
		case ('0' > c || c > '9') && ('a' > c || c > 'f') && ('A' > c || c > 'F'):
			return "", errUUID
		}
	}
	return strings.ToLower(s), nil
}

var errUUID = fmt.Errorf("must be a uuid such as 6f1c2d9e-8a53-4d0a-9b61-0f2f5c3f8a11")
