package retry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPause(t *testing.T) {
	stopped := errors.New("stopped")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := Pause(t.Context(), time.Minute); err != nil || time.Since(began) != time.Minute {
			t.Errorf("Pause = %v after %v, want nil after 1m", err, time.Since(began))
		}

		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(stopped) })
		began = time.Now()
		if err := Pause(ctx, time.Minute); !errors.Is(err, stopped) || time.Since(began) != time.Second {
			t.Errorf("Pause = %v after %v, want %v after 1s", err, time.Since(began), stopped)
		}
		if err := Pause(ctx, 0); !errors.Is(err, stopped) {
			t.Errorf("Pause with an ended context = %v, want %v", err, stopped)
		}
	})
}

func TestBackoff(t *testing.T) {
	b := Backoff{Min: 10 * time.Millisecond, Max: 50 * time.Millisecond}
	for round := range 2 {
		for i, bound := range []time.Duration{10, 20, 40, 50, 50} {
			bound *= time.Millisecond
			if d := b.Delay(); d < bound/2 || d > bound {
				t.Errorf("round %d, delay %d = %v, want %v to %v", round, i, d, bound/2, bound)
			}
		}
		b.Reset()
	}
}
