// Package task is the domain of the Task API: what a task is, which changes it
// can take and what each change is called. It knows neither HTTP nor a
// database; the contract a database must keep is Store.
package task

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Status is where a task stands. Any status may follow any other: a completed
// task can be opened again.
type Status string

// The three statuses.
const (
	Pending    Status = "pending"
	InProgress Status = "in_progress"
	Completed  Status = "completed"
)

// ParseStatus accepts the three statuses, spelt exactly so.
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
	Unchanged     Kind = ""
	WasCreated    Kind = "task.created"
	WasUpdated    Kind = "task.updated"
	WasCompleted  Kind = "task.completed"
	MaxTitleRunes      = 500
)

// Task is one task in one version.
type Task struct {
	ID        string // UUIDv7, so that the order of ids is the order of creation
	Title     string
	Status    Status
	OwnerID   string // lower-case uuid, "" when nobody owns it
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
	OwnerID *string // "" takes the owner away
}

// Complete is the patch of POST /tasks/{id}/complete.
func Complete() Patch { return Patch{Status: new(Completed)} }

// Apply gives the next version of t and says what happened. When p asks for
// nothing that t is not already, t comes back as it was, with Unchanged: no
// version is drawn and no event made.
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

// ParseTitle trims s and refuses what could not be shown on one line.
func ParseTitle(s string) (string, error) {
	s = strings.TrimSpace(s)
	switch {
	case !utf8.ValidString(s):
		return "", fmt.Errorf("must be valid UTF-8")
	case s == "":
		return "", fmt.Errorf("must not be empty")
	case utf8.RuneCountInString(s) > MaxTitleRunes:
		return "", fmt.Errorf("must have at most %d characters", MaxTitleRunes)
	case strings.ContainsFunc(s, unicode.IsControl):
		return "", fmt.Errorf("must not contain control characters")
	}
	return s, nil
}

// ParseUUID accepts the 36-character form and gives it in lower case.
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
