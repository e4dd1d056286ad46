package task_test

import (
	"fmt"
	"time"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Each change makes one version and one event; completing a completed task
// makes neither.
func ExampleTask_Apply() {
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	t := task.New("019ab3c2-5f00-7a10-8000-3d5c8e7f9a01", "Buy milk", "", now)
	for _, patch := range []task.Patch{{Status: new(task.InProgress)}, task.Complete(), task.Complete(), {Status: new(task.Pending)}} {
		var kind task.Kind
		t, kind = t.Apply(patch, now)
		fmt.Printf("version %d is %s, event %q\n", t.Version, t.Status, kind)
	}
	// Output:
	// version 2 is in_progress, event "task.updated"
	// version 3 is completed, event "task.completed"
	// version 3 is completed, event ""
	// version 4 is pending, event "task.updated"
}
