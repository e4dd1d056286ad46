package pump

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

// allows begins a post and ends it.
func allows(b *breaker, now time.Time) bool {
	at := place{9, "asked"}
	round, ok := b.begin(at, now)
	if !ok {
		return false
	}
	b.ended(at, round)
	return true
}

func TestBreaker(t *testing.T) {
	refused := errors.New("refused")
	start := time.Unix(1_700_000_000, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

	// fail ends an attempt of key at the given second; the next probe is put off by 10 s per probe.
	failing := func(key string, second int, unreached bool) func(*breaker) {
		return func(b *breaker) {
			if n := b.failed(place{0, key}, b.ended(place{0, key}, 0), unreached, refused); n > 0 {
				b.putOff(at(second + 10*n))
			}
		}
	}
	fail := func(key string, second int) func(*breaker) { return failing(key, second, false) }
	start1 := func(key string) func(*breaker) {
		return func(b *breaker) { b.begin(place{0, key}, at(1000)) }
	}
	succeed := func(key string) func(*breaker) {
		return func(b *breaker) { b.ended(place{0, key}, 0); b.recovered(); b.forget(place{0, key}) }
	}
	forget := func(key string) func(*breaker) { return func(b *breaker) { b.forget(place{0, key}) } }
	leave := func(b *breaker) { b.leave(0, 64) }
	down := []func(*breaker){fail("a", 0), fail("b", 0), fail("c", 0)}

	for name, c := range map[string]struct {
		steps  []func(*breaker)
		down   bool
		allows map[int]bool // at second
	}{
		"new":                              {nil, false, map[int]bool{0: true}},
		"two keys fail":                    {[]func(*breaker){fail("a", 0), fail("b", 0)}, false, map[int]bool{0: true}},
		"one key fails often":              {[]func(*breaker){fail("a", 0), fail("a", 1), fail("a", 2), fail("a", 3)}, false, map[int]bool{3: true}},
		"three keys fail":                  {down, true, map[int]bool{0: false, 9: false, 10: true}},
		"no connection for one key":        {[]func(*breaker){failing("a", 0, true)}, true, map[int]bool{9: false, 10: true}},
		"then it answers with an error":    {[]func(*breaker){failing("a", 0, true), start1("a"), fail("a", 12)}, false, map[int]bool{12: true}},
		"a success between":                {[]func(*breaker){fail("a", 0), fail("b", 0), succeed("d"), fail("c", 0)}, false, map[int]bool{0: true}},
		"posts in flight are no probes":    {append(down, fail("d", 1), fail("e", 1), fail("f", 1)), true, map[int]bool{9: false, 10: true}},
		"one probe at a time":              {append(down, start1("a")), true, map[int]bool{10: false, 100: false}},
		"a probe fails":                    {append(down, start1("a"), fail("a", 12)), true, map[int]bool{12: false, 31: false, 32: true}},
		"another post ends while it runs":  {append(down, start1("a"), fail("d", 12)), true, map[int]bool{100: false}},
		"a probe succeeds":                 {append(down, start1("a"), succeed("a")), false, map[int]bool{0: true}},
		"a post in flight succeeds":        {append(down, succeed("d")), false, map[int]bool{0: true}},
		"down again starts from one probe": {append(down, start1("a"), fail("a", 12), start1("b"), succeed("b"), fail("a", 50), fail("b", 50), fail("c", 50)), true, map[int]bool{59: false, 60: true}},
		"failing keys are set aside":       {append(down, forget("a")), false, map[int]bool{0: true}},
		"the partition goes":               {append(down, leave), false, map[int]bool{0: true}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBreaker()
			b.join(64)
			for _, step := range c.steps {
				step(b)
			}
			if b.down() != c.down {
				t.Errorf("down = %v, want %v", b.down(), c.down)
			}
			for second, want := range c.allows {
				if got := allows(b, at(second)); got != want {
					t.Errorf("allows at %d s = %v, want %v", second, got, want)
				}
			}
		})
	}
}

// outOfOrder puts a breaker's sink down, for keys of three partitions.
func outOfOrder(b *breaker) {
	for id := range downKeys {
		b.join(64)
		b.failed(place{id, "k"}, false, false, errors.New("503"))
	}
}

func TestBreakerReportsRecoveryOnce(t *testing.T) {
	b := newBreaker()
	if b.recovered() {
		t.Error("recovered = true for a sink that was never down")
	}
	outOfOrder(b)
	if !b.recovered() || b.recovered() || b.rounds.Load() != 1 {
		t.Error("recovered should be true once after the sink was down")
	}
}

// The partitions of a subscription probe together.
func TestPartitionsShareOneProbe(t *testing.T) {
	b := newBreaker()
	outOfOrder(b)
	now := time.Now()
	if _, ok := b.begin(place{2, "k"}, now); !ok || allows(b, now) {
		t.Fatal("want one probe, that of the first who asks")
	}
	if b.ended(place{1, "k"}, 0) || !b.ended(place{2, "k"}, 0) {
		t.Error("the probe is the post of partition 2")
	}
	if !allows(b, now) {
		t.Error("no probe after the last one has ended")
	}
}

// A thousand keys that have waited do not arrive together: what a sink gets at once
// grows with its answers, to no limit.
func TestPostsGrowWithTheAnswersOfASinkThatIsBack(t *testing.T) {
	b := newBreaker()
	outOfOrder(b)
	now := time.Now()
	b.recovered() // the probe's answer
	type post struct {
		place
		round int64
	}
	var inFlight []post
	begin := func() (n int) {
		for n < 1000 {
			at := place{n % 3, fmt.Sprint(len(inFlight), "-", n)}
			round, ok := b.begin(at, now)
			if !ok {
				return n
			}
			inFlight = append(inFlight, post{at, round})
			n++
		}
		return n
	}
	var rounds []int
	for range 8 {
		began := begin()
		rounds = append(rounds, began)
		for _, p := range inFlight {
			b.ended(p.place, p.round)
			b.recovered()
		}
		inFlight = nil
	}
	for i, want := range []int{2, 4, 8, 16, 32, 64, 128, 1000} {
		if rounds[i] != want {
			t.Fatalf("posts at once = %v, want twice as many each time, and no limit beyond 192", rounds)
		}
	}

	outOfOrder(b)
	b.recovered()
	for range 30 {
		b.recovered()
	}
	b.failed(place{1, "k"}, false, false, errors.New("503"))
	if got := begin(); got != 16 {
		t.Errorf("%d posts at once after a failure among 32, want half", got)
	}
}

func TestProbePause(t *testing.T) {
	c := Config{Backoff: deliver.Backoff{Initial: 200 * time.Millisecond, Multiplier: 2, Max: 30 * time.Second}}
	for range 1000 {
		if d := c.probePause(20, 0); d > probeEvery {
			t.Fatalf("pause = %v, want at most %v", d, probeEvery)
		}
	}
	for asked, want := range map[time.Duration]time.Duration{time.Minute: time.Minute, time.Hour: 5 * time.Minute} {
		if d := c.probePause(1, asked); d != want {
			t.Errorf("pause after Retry-After %v = %v, want %v", asked, d, want)
		}
	}
	c.Backoff.Max = time.Second
	if d := c.probePause(20, 0); d > time.Second {
		t.Errorf("pause = %v, want no more than retry.max", d)
	}
}
