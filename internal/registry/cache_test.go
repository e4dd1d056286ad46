package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/taskwire/taskwire/internal/registry"
)

var errDown = errors.New("connection refused")

func denied() error {
	return &sr.ResponseError{Method: "GET", URL: "http://registry/schemas/ids/1", StatusCode: http.StatusNotFound, ErrorCode: 40403, Message: "Schema not found"}
}

// fetched runs schemas until the test ends, within synctest.
func fetched(t *testing.T, fetch func(ctx context.Context, id int) (sr.Schema, error)) *registry.Schemas {
	t.Helper()
	s := registry.NewFetched(fetch)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

// ask calls Get until it says something final, as the loops of the bridge do, for
// at most d.
func ask(s *registry.Schemas, id int, dataSchema string, d time.Duration) (*registry.Schema, error) {
	for end := time.Now().Add(d); ; {
		changed := s.Changed()
		schema, err := s.Get(id, dataSchema)
		if pending := (*registry.PendingError)(nil); !errors.As(err, &pending) || !time.Now().Before(end) {
			return schema, err
		}
		select {
		case <-changed:
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// What is known stays known while the registry is down, and what is not waits until
// it is back, however long that takes.
func TestAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		asked := map[int]int{}
		var mu sync.Mutex
		s := fetched(t, func(_ context.Context, id int) (sr.Schema, error) {
			mu.Lock()
			asked[id]++
			mu.Unlock()
			if down.Load() {
				return sr.Schema{}, errDown
			}
			return sr.Schema{Schema: `"string"`}, nil
		})
		if _, err := ask(s, 1, "", time.Second); err != nil {
			t.Fatal(err)
		}
		down.Store(true)
		if _, err := s.Get(1, ""); err != nil {
			t.Errorf("known schema during an outage: %v", err)
		}
		_, err := ask(s, 2, "", time.Hour)
		var pending *registry.PendingError
		if !errors.As(err, &pending) || !errors.Is(err, errDown) {
			t.Errorf("unknown schema during an outage: %v, want it to be pending and to say why", err)
		}
		mu.Lock()
		if asked[1] != 1 || asked[2] < 3600/6 || asked[2] > 3600/2 {
			t.Errorf("asked %v times in an hour, want once and every few seconds", asked)
		}
		mu.Unlock()
		down.Store(false)
		if _, err := ask(s, 2, "", 10*time.Second); err != nil {
			t.Errorf("after the outage: %v", err)
		}
	})
}

// An id is unknown only when the registry has said so for some time: a replica may
// not have what another has just registered.
func TestADeniedID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, appears := time.Now(), time.Duration(0)
		s := fetched(t, func(_ context.Context, id int) (sr.Schema, error) {
			if id == 2 && time.Since(began) > appears {
				return sr.Schema{Schema: `"string"`}, nil
			}
			return sr.Schema{}, denied()
		})
		_, err := ask(s, 1, "", time.Minute)
		var unknown *registry.UnknownError
		if !errors.As(err, &unknown) || errors.As(err, new(*registry.PendingError)) || time.Since(began) < registry.Settle || time.Since(began) > 2*registry.Settle {
			t.Errorf("after %v: %v, want unknown after about %v", time.Since(began), err, registry.Settle)
		}
		appears = time.Since(began) + registry.Settle/2
		if _, err := ask(s, 2, "", time.Minute); err != nil {
			t.Errorf("a schema that appears late: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := s.Get(1, ""); !errors.As(err, new(*registry.PendingError)) {
			t.Errorf("after two minutes: %v, want it to be asked for again", err)
		}
	})
}

// Denials before and after an outage are not one denial: what answered before it may
// have been a replica that has been replaced since.
func TestAnOutageEndsADenial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := fetched(t, func(context.Context, int) (sr.Schema, error) {
			if d := time.Since(began); d > registry.Settle/2 && d < 3*registry.Settle {
				return sr.Schema{}, errDown
			}
			return sr.Schema{}, denied()
		})
		_, err := ask(s, 1, "", 10*registry.Settle)
		if !errors.As(err, new(*registry.UnknownError)) || errors.As(err, new(*registry.PendingError)) || time.Since(began) < 4*registry.Settle {
			t.Errorf("after %v: %v, want unknown not before %v", time.Since(began), err, 4*registry.Settle)
		}
	})
}

// What a wrong server answers says nothing about an id.
func TestWrongAnswersAreOutages(t *testing.T) {
	for name, answer := range map[string]error{
		"a 404 of another server": &sr.ResponseError{StatusCode: 404, Raw: []byte("not found")},
		"401":                     &sr.ResponseError{StatusCode: 401, ErrorCode: 40101, Message: "Unauthorized"},
		"a subject's 404":         &sr.ResponseError{StatusCode: 404, ErrorCode: 40401, Message: "Subject not found"},
		"500":                     &sr.ResponseError{StatusCode: 500, ErrorCode: 50001, Message: "Error in the backend"},
		"an empty answer":         nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := fetched(t, func(context.Context, int) (sr.Schema, error) { return sr.Schema{}, answer })
			if _, err := ask(s, 1, "", time.Hour); !errors.As(err, new(*registry.PendingError)) {
				t.Errorf("%s: %v, want it to be pending", name, err)
			}
		})
	}
}

func TestUnusableSchemas(t *testing.T) {
	for name, found := range map[string]sr.Schema{
		"protobuf":   {Schema: "syntax = 3", Type: sr.TypeProtobuf},
		"references": {Schema: `"string"`, References: []sr.SchemaReference{{Name: "x"}}},
		"no schema":  {Schema: `{"type": "nothing"}`},
		"huge":       {Schema: `{"type": "record", "name": "R", "fields": [], "doc": "` + strings.Repeat("x", 300<<10) + `"}`},
	} {
		synctest.Test(t, func(t *testing.T) {
			var mended atomic.Bool
			s := fetched(t, func(context.Context, int) (sr.Schema, error) {
				if mended.Load() {
					return sr.Schema{Schema: `"string"`}, nil
				}
				return found, nil
			})
			if _, err := ask(s, 1, "", time.Minute); !errors.As(err, new(*registry.UnusableError)) {
				t.Errorf("%s: %v, want it to be unusable", name, err)
			}
			// A server at the registry's address may have answered for it.
			mended.Store(true)
			time.Sleep(2 * time.Minute)
			if _, err := ask(s, 1, "", time.Minute); err != nil {
				t.Errorf("%s: %v two minutes later, want it to be asked for again", name, err)
			}
		})
	}
}

// A value that names the fingerprint of its schema waits longer for it: it was there.
func TestADeniedFingerprint(t *testing.T) {
	const named = "http://registry/subjects/s-value/versions/1?sha256=5c771a91d8dad963e258198909fadd5c"
	for name, found := range map[string]sr.Schema{"no schema": {}, "another schema": {Schema: `"string"`}} {
		synctest.Test(t, func(t *testing.T) {
			began, back := time.Now(), time.Hour
			s := fetched(t, func(context.Context, int) (sr.Schema, error) {
				switch {
				case time.Since(began) > back:
					return sr.Schema{Schema: first}, nil
				case found.Schema == "":
					return found, denied()
				}
				return found, nil
			})
			_, err := ask(s, 1, named, time.Hour)
			if errors.As(err, new(*registry.PendingError)) || time.Since(began) < registry.Restore || time.Since(began) > 2*registry.Restore {
				t.Errorf("%s after %v: %v, want it given up after about %v", name, time.Since(began), err, registry.Restore)
			}
			back = time.Since(began) + registry.Restore*3/2 // after it was given up, and asked for again
			time.Sleep(registry.Restore)
			if _, err := ask(s, 1, named, time.Hour); err != nil {
				t.Errorf("%s, registered again: %v", name, err)
			}
		})
	}
}

// Whatever ids stand in a topic: few requests, and little memory.
func TestAFloodOfIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests, atOnce, most atomic.Int64
		s := fetched(t, func(context.Context, int) (sr.Schema, error) {
			requests.Add(1)
			most.Store(max(most.Load(), atOnce.Add(1)))
			defer atOnce.Add(-1)
			time.Sleep(10 * time.Millisecond)
			return sr.Schema{}, denied()
		})
		for range 60 {
			for id := range 2 * registry.Most {
				_, _ = s.Get(id, "")
			}
			time.Sleep(time.Second)
		}
		if n := requests.Load(); n < 600 || n > 1300 {
			t.Errorf("%d requests in a minute, want at most 20 a second", n)
		}
		if n := most.Load(); n > 4 {
			t.Errorf("%d requests at once, want at most 4", n)
		}
		if n := s.Len(); n > registry.Most {
			t.Errorf("%d ids are remembered, want at most %d", n, registry.Most)
		}
	})
}

// Ids of which more wait at once than are remembered: each is denied in its time, so
// that what waits for them goes on.
func TestAFloodThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fetched(t, func(context.Context, int) (sr.Schema, error) { return sr.Schema{}, denied() })
		waiting := map[int]bool{}
		for id := range 2 * registry.Most {
			waiting[id] = true
		}
		began := time.Now()
		for len(waiting) > 0 && time.Since(began) < time.Hour {
			for id := range waiting {
				if _, err := s.Get(id, ""); errors.As(err, new(*registry.UnknownError)) && !errors.As(err, new(*registry.PendingError)) {
					delete(waiting, id)
				}
			}
			time.Sleep(time.Second)
		}
		if len(waiting) > 0 {
			t.Errorf("%d ids of %d still wait after an hour", len(waiting), 2*registry.Most)
		}
	})
}

// Ids that nobody waits for any more, as their partition went to another bridge, make
// room although it is not known whether the registry would deny them for long enough.
func TestAFloodThatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fetched(t, func(_ context.Context, id int) (sr.Schema, error) {
			if id == registry.Most {
				return sr.Schema{Schema: `"string"`}, nil
			}
			return sr.Schema{}, denied()
		})
		for id := range registry.Most {
			_, _ = s.Get(id, "")
			time.Sleep(60 * time.Millisecond) // each is denied, once
		}
		time.Sleep(2 * registry.Settle)
		if _, err := ask(s, registry.Most, "", time.Minute); err != nil {
			t.Errorf("another id: %v", err)
		}
	})
}

// A schema that is in use is not forgotten for those that nobody uses.
func TestTheLeastUsedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := map[int]int{}
		var mu sync.Mutex
		s := fetched(t, func(_ context.Context, id int) (sr.Schema, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[id]++
			return sr.Schema{Schema: fmt.Sprintf(`{"type": "fixed", "name": "F", "size": %d, "doc": "%s"}`, id, strings.Repeat("x", 100<<10))}, nil
		})
		for id := range 100 { // 10 MiB of text
			for _, id := range []int{0, id} {
				if _, err := ask(s, id, "", time.Minute); err != nil {
					t.Fatal(err)
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if asked[0] != 1 || s.Len() > 50 {
			t.Errorf("schema 0 was fetched %d times, %d are remembered; want once, and at most 4 MiB", asked[0], s.Len())
		}
	})
}
