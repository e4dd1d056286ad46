package pump

import (
	"errors"
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	refused := errors.New("refused")
	start := time.Unix(1_700_000_000, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

	// fail ends an attempt of key at the given second; the next probe is put off by 10 s per probe.
	fail := func(key string, second int) func(*breaker) {
		return func(b *breaker) {
			if n := b.failed(key, b.ended(key), refused); n > 0 {
				b.putOff(at(second + 10*n))
			}
		}
	}
	start1 := func(key string) func(*breaker) { return func(b *breaker) { b.started(key) } }
	succeed := func(key string) func(*breaker) {
		return func(b *breaker) { b.ended(key); b.recovered(); b.forget(key) }
	}
	forget := func(key string) func(*breaker) { return func(b *breaker) { b.forget(key) } }
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
		"a success between":                {[]func(*breaker){fail("a", 0), fail("b", 0), succeed("d"), fail("c", 0)}, false, map[int]bool{0: true}},
		"posts in flight are no probes":    {append(down, fail("d", 1), fail("e", 1), fail("f", 1)), true, map[int]bool{9: false, 10: true}},
		"one probe at a time":              {append(down, start1("a")), true, map[int]bool{10: false, 100: false}},
		"a probe fails":                    {append(down, start1("a"), fail("a", 12)), true, map[int]bool{12: false, 31: false, 32: true}},
		"another post ends while it runs":  {append(down, start1("a"), fail("d", 12)), true, map[int]bool{100: false}},
		"a probe succeeds":                 {append(down, start1("a"), succeed("a")), false, map[int]bool{0: true}},
		"a post in flight succeeds":        {append(down, succeed("d")), false, map[int]bool{0: true}},
		"down again starts from one probe": {append(down, start1("a"), fail("a", 12), start1("b"), succeed("b"), fail("a", 50), fail("b", 50), fail("c", 50)), true, map[int]bool{59: false, 60: true}},
		"failing keys are set aside":       {append(down, forget("a")), false, map[int]bool{0: true}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBreaker()
			for _, step := range c.steps {
				step(b)
			}
			if b.down() != c.down {
				t.Errorf("down = %v, want %v", b.down(), c.down)
			}
			for second, want := range c.allows {
				if got := b.allows(at(second)); got != want {
					t.Errorf("allows at %d s = %v, want %v", second, got, want)
				}
			}
		})
	}
}

func TestBreakerReportsRecoveryOnce(t *testing.T) {
	b := newBreaker()
	if b.recovered() {
		t.Error("recovered = true for a sink that was never down")
	}
	for _, key := range []string{"a", "b", "c"} {
		b.failed(key, false, errors.New("refused"))
	}
	if !b.recovered() || b.recovered() {
		t.Error("recovered should be true once after the sink was down")
	}
}
