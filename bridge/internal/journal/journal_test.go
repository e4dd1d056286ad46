package journal

import (
	"strings"
	"testing"
	"time"
)

func add(j *Journal, n int) {
	for range n {
		j.Add(Step{At: time.Now(), Kind: Received, Subscription: "s", Topic: "t"})
	}
}

func TestStepsAreNumberedAndAGapIsTold(t *testing.T) {
	j := New()
	add(j, 10)
	got, gap := j.After(7, 100, nil)
	if gap || len(got) != 3 || got[0].ID != 8 || got[2].ID != 10 {
		t.Fatalf("After(7) = %d steps, gap %v, want 8, 9, 10 without a gap", len(got), gap)
	}
	add(j, steps)
	got, gap = j.After(7, 2, nil)
	if !gap || len(got) != 2 || got[0].ID != 11 {
		t.Fatalf("After(7) = %+v, gap %v, want a gap and then 11, 12", got, gap)
	}
	if got, gap = j.After(j.Last(), 2, nil); gap || len(got) != 0 {
		t.Fatalf("After(last) = %v, gap %v", got, gap)
	}
	var newest []int64
	j.Backwards(func(s *Step) bool { newest = append(newest, s.ID); return true })
	if len(newest) != steps || newest[0] != steps+10 || newest[1] != steps+9 || newest[steps-1] != 11 {
		t.Errorf("backwards: %d steps from %d to %d", len(newest), newest[0], newest[len(newest)-1])
	}
	New().Backwards(func(*Step) bool { t.Error("a step of an empty journal"); return true })
}

// One who follows and never looks keeps nobody waiting.
func TestAFollowerThatSleepsHoldsNothingUp(t *testing.T) {
	j := New()
	wake, leave := j.Follow()
	add(j, 3*steps)
	<-wake
	leave()
	add(j, 1)
	select {
	case <-wake:
		t.Error("told after it had left")
	default:
	}
}

func TestLongTextsAreCut(t *testing.T) {
	j := New()
	j.Add(Step{Key: strings.Repeat("k", 1<<20), Error: "e"})
	got, _ := j.After(0, 1, nil)
	if len(got[0].Key) > maxText+len("…") || got[0].Error != "e" {
		t.Errorf("key of %d bytes, error %q", len(got[0].Key), got[0].Error)
	}
}

func TestSeriesForgetsWhatIsOld(t *testing.T) {
	j := New()
	at := time.Unix(1_000_000_000, 0)
	j.Add(Step{At: at, Kind: Attempted, Subscription: "s", Outcome: Accepted, Status: 204})
	j.Add(Step{At: at.Add(BucketTime), Kind: Attempted, Subscription: "s", Outcome: "retry", Status: 503})
	c := j.Series("s", at.Add(2*BucketTime))
	if c.Accepted[Buckets-3] != 1 || c.Failed[Buckets-2] != 1 || c.Statuses[204] != 1 || c.Statuses[503] != 1 {
		t.Errorf("series = %+v", c)
	}
	if c = j.Series("s", at.Add(Buckets*BucketTime)); c.Accepted[0] != 0 || c.Failed[0] != 1 {
		t.Errorf("after a quarter of an hour: %+v", c)
	}
	j.Forget("s")
	if c = j.Series("s", at); c.Statuses[204] != 0 {
		t.Errorf("not forgotten: %+v", c)
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	j := New()
	add(j, steps)
	_, leave := j.Follow()
	defer leave()
	s := Step{At: time.Now(), Kind: Attempted, Subscription: "s", Topic: "t", Event: "e", Outcome: Accepted, Status: 204}
	j.Add(s)
	if n := testing.AllocsPerRun(1000, func() { j.Add(s) }); n > 0 {
		t.Errorf("%.1f allocations, want none", n)
	}
}
