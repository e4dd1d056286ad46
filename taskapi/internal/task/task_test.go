package task_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

func TestParseTitle(t *testing.T) {
	tests := []struct {
		name, in, want string
		ok             bool
	}{
		{"plain", "Buy milk", "Buy milk", true},
		{"trimmed", " \tBuy milk\n ", "Buy milk", true},
		{"one character", "x", "x", true},
		{"500 characters of two bytes", strings.Repeat("é", 500), strings.Repeat("é", 500), true},
		{"500 after trimming", " " + strings.Repeat("x", 500) + " ", strings.Repeat("x", 500), true},
		{"emoji", "🎉", "🎉", true},
		{"empty", "", "", false},
		{"blank", " \t\r\n\u00a0\u2003", "", false},
		{"501 characters", strings.Repeat("x", 501), "", false},
		{"line feed inside", "a\nb", "", false},
		{"NUL", "a\x00b", "", false},
		{"delete", "a\x7fb", "", false},
		{"C1 control", "a\u0085b", "", false},
		{"escape", "a\x1b[31mb", "", false},
		{"broken UTF-8", "a\xffb", "", false},
		{"line separator", "a\u2028b", "", false},
		{"paragraph separator", "a\u2029b", "", false},
		{"right-to-left override", "invoice\u202efdp.exe", "", false},
		{"right-to-left embedding", "a\u202bb", "", false},
		{"end of an embedding", "a\u202cb", "", false},
		{"isolate", "a\u2066b", "", false},
		{"end of an isolate", "a\u2069b", "", false},
		{"zero-width space alone", "\u200b", "", false},
		{"zero-width characters alone", "\u200b \u2060\ufeff\u200d", "", false},
		{"soft hyphens alone", "\u00ad\u00ad", "", false},
		{"fillers alone", "\u3164\u115f\u034f\ufe0f\u2800", "", false},
		{"tags alone", "\U000e0041", "", false},
		{"a joined emoji", "👨\u200d👩\u200d👧 \U0001f3f4\U000e0067\U000e007f", "👨\u200d👩\u200d👧 \U0001f3f4\U000e0067\U000e007f", true},
		{"Persian with a non-joiner", "می\u200cخواهم", "می\u200cخواهم", true},
		{"Hebrew with a mark", "שלום\u200f!", "שלום\u200f!", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := task.ParseTitle(tt.in)
			if got != tt.want || (err == nil) != tt.ok {
				t.Errorf("ParseTitle(%q) = %q, %v; want %q, ok %v", tt.in, got, err, tt.want, tt.ok)
			}
		})
	}
}

func TestParseUUID(t *testing.T) {
	const good = "6f1c2d9e-8a53-4d0a-9b61-0f2f5c3f8a11"
	for in, want := range map[string]string{
		good:                                   good,
		strings.ToUpper(good):                  good,
		"00000000-0000-0000-0000-000000000000": "00000000-0000-0000-0000-000000000000",
		"":                                     "",
		strings.ReplaceAll(good, "-", ""):      "",
		"{" + good + "}":                       "",
		"urn:uuid:" + good:                     "",
		good[:35] + "g":                        "",
		good[:35] + " ":                        "",
		strings.Replace(good, "-", "0", 1):     "",
		"6f1c2d9e-8a53-4d0a-9b61-0f2f5c3f8a\u00e9": "",
	} {
		got, err := task.ParseUUID(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParseUUID(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestApply(t *testing.T) {
	created := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	now := created.Add(time.Minute)
	pending := task.New("id", "title", "", created)
	done, _ := pending.Apply(task.Complete(), created)
	tests := []struct {
		name  string
		from  task.Task
		patch task.Patch
		kind  task.Kind
	}{
		{"nothing asked", pending, task.Patch{}, task.Unchanged},
		{"same title", pending, task.Patch{Title: new("title")}, task.Unchanged},
		{"same status", pending, task.Patch{Status: new(task.Pending)}, task.Unchanged},
		{"no owner to remove", pending, task.Patch{OwnerID: new("")}, task.Unchanged},
		{"title", pending, task.Patch{Title: new("other")}, task.WasUpdated},
		{"owner", pending, task.Patch{OwnerID: new("someone")}, task.WasUpdated},
		{"started", pending, task.Patch{Status: new(task.InProgress)}, task.WasUpdated},
		{"completed", pending, task.Complete(), task.WasCompleted},
		{"completed with a new title", pending, task.Patch{Title: new("other"), Status: new(task.Completed)}, task.WasCompleted},
		{"completed again", done, task.Complete(), task.Unchanged},
		{"completed again with a new title", done, task.Patch{Title: new("other"), Status: new(task.Completed)}, task.WasUpdated},
		{"opened again", done, task.Patch{Status: new(task.Pending)}, task.WasUpdated},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, kind := tt.from.Apply(tt.patch, now)
			if kind != tt.kind {
				t.Fatalf("kind = %q, want %q", kind, tt.kind)
			}
			if kind == task.Unchanged {
				if got != tt.from {
					t.Errorf("an unchanged task became %+v", got)
				}
				return
			}
			want := tt.from
			want.Version, want.UpdatedAt = tt.from.Version+1, now
			if tt.patch.Title != nil {
				want.Title = *tt.patch.Title
			}
			if tt.patch.Status != nil {
				want.Status = *tt.patch.Status
			}
			if tt.patch.OwnerID != nil {
				want.OwnerID = *tt.patch.OwnerID
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("next version, want (-), got (+):\n%s", diff)
			}
		})
	}
}

// For any patches in any order: the version increases by one exactly when
// something changed, and the kind is task.completed exactly when the status
// becomes completed.
func TestApplySequences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(0, 0)
		tk := task.New("id", "a", "", at)
		for range rapid.IntRange(0, 30).Draw(t, "changes") {
			at = at.Add(time.Second)
			var p task.Patch
			if rapid.Bool().Draw(t, "title?") {
				p.Title = new(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "title"))
			}
			if rapid.Bool().Draw(t, "status?") {
				p.Status = new(rapid.SampledFrom([]task.Status{task.Pending, task.InProgress, task.Completed}).Draw(t, "status"))
			}
			if rapid.Bool().Draw(t, "owner?") {
				p.OwnerID = new(rapid.SampledFrom([]string{"", "o"}).Draw(t, "owner"))
			}
			next, kind := tk.Apply(p, at)
			changed := next.Title != tk.Title || next.Status != tk.Status || next.OwnerID != tk.OwnerID
			if changed != (next.Version == tk.Version+1) || changed != (kind != task.Unchanged) {
				t.Fatalf("%+v with %+v gave %+v, %q", tk, p, next, kind)
			}
			if (kind == task.WasCompleted) != (next.Status == task.Completed && tk.Status != task.Completed) {
				t.Fatalf("%+v with %+v is %q", tk, p, kind)
			}
			tk = next
		}
	})
}
