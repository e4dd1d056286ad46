package pump

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestBudgetIsDivided(t *testing.T) {
	b := NewBudget(128 << 20)
	for _, c := range []struct{ partitions, room, answer, posts int }{
		{1, maxRoom, maxAnswer, 1024},
		{12, maxRoom, maxAnswer, 85},
		{64, 1 << 20, 512 << 10, 16},
		{256, 256 << 10, 128 << 10, 4},
		{100_000, minRoom, minAnswer, 1}, // however many: one record and one post
	} {
		for b.partitions.Load() < int64(c.partitions) {
			b.join()
		}
		if b.room() != c.room || b.answer() != c.answer || b.posts(0) != c.posts {
			t.Errorf("%d partitions: room %d, answer %d, posts %d; want %d, %d, %d", c.partitions, b.room(), b.answer(), b.posts(0), c.room, c.answer, c.posts)
		}
	}
}

func TestBudgetGrantsInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(4 << 20) // 1 MiB of answers
		first, err := b.grant(t.Context(), 5<<20)
		if err != nil || first != 1<<20 {
			t.Fatalf("grant = %d, %v; want all there is for an answer that is larger", first, err)
		}
		isShort := func() bool {
			select {
			case <-b.short():
				return true
			default:
				return false
			}
		}
		if isShort() {
			t.Error("short while nobody waits")
		}
		granted := make(chan int64)
		go func() { n, _ := b.grant(t.Context(), 1000); granted <- n }()
		synctest.Wait()
		if !isShort() {
			t.Error("not short while a grant waits")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.grant(ctx, 1000); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a grant beyond its time = %v, want %v", err, context.DeadlineExceeded)
		}
		b.release(first)
		if n := <-granted; n != 1000 || isShort() {
			t.Errorf("granted %d, short %v; want 1000, false", n, isShort())
		}
		b.release(1000)
	})
}
