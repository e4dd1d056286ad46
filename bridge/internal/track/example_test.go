package track_test

import (
	"fmt"

	"github.com/taskwire/taskwire/bridge/internal/track"
)

// Records finish in any order. What may be committed is the lowest offset that
// is not finished; the metadata remembers the finished ones above it.
func ExampleTracker() {
	t := track.New(-1, "")
	for offset := range int64(4) {
		t.Received(offset)
	}
	t.Done(2)
	t.Done(0)
	offset, _, _ := t.Commit()
	fmt.Println("commit", offset, "blocked by", t.Blocking())

	t.Done(1)
	offset, _, _ = t.Commit()
	fmt.Println("commit", offset, "blocked by", t.Blocking())
	// Output:
	// commit 1 blocked by 1
	// commit 3 blocked by 3
}

// After a crash the group still has the last commit. From its metadata a new
// Tracker knows which records must not be delivered again.
func ExampleNew() {
	before := track.New(100, "")
	for _, offset := range []int64{100, 101, 102} {
		before.Received(offset)
	}
	before.Done(101)
	offset, metadata, _ := before.Commit()

	after := track.New(offset, metadata)
	for _, offset := range []int64{100, 101, 102} {
		fmt.Println("deliver", offset, after.Received(offset))
	}
	// Output:
	// deliver 100 true
	// deliver 101 false
	// deliver 102 true
}

// A caller whose commit failed asks for the same one again.
func ExampleTracker_Recommit() {
	t := track.New(7, "")
	t.Received(7)
	t.Done(7)
	for range 2 {
		offset, _, changed := t.Commit()
		fmt.Println(offset, changed)
	}
	t.Recommit()
	offset, _, changed := t.Commit()
	fmt.Println(offset, changed)
	// Output:
	// 8 true
	// 8 false
	// 8 true
}
