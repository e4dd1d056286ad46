package pump_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/pump"
)

// oracle is a sink for batches that knows which events it has accepted, whatever
// its answers say, and holds the bridge to the rules of a batch.
type oracle struct {
	t      testing.TB
	answer func(ids []string) (status int, body string, accepted []bool) // status 0 cuts the answer
	takes  func() bool                                                   // mode auto: whether the next answer says that it takes batches
	server *httptest.Server

	singles  atomic.Int64
	mu       sync.Mutex
	batches  [][]string
	accepted []string          // each time that one was accepted
	offsets  []string          // Taskwire-Offset of each batch
	attempts []string          // Taskwire-Attempt of each batch
	inFlight map[string]string // key to id
	largest  int               // bytes
}

func newOracle(t testing.TB, answer func(ids []string) (int, string, []bool)) *oracle {
	o := &oracle{t: t, answer: answer, inFlight: map[string]string{}}
	o.server = httptest.NewServer(o)
	t.Cleanup(o.server.Close)
	return o
}

func (o *oracle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var batch []struct {
		ID  string `json:"id"`
		Key string `json:"partitionkey"`
	}
	single := o.takes != nil && r.Header.Get("Content-Type") == "application/cloudevents+json; charset=utf-8"
	if single {
		body = append(append([]byte("["), body...), ']')
		r.Header.Set("Content-Type", "application/cloudevents-batch+json; charset=utf-8")
		o.singles.Add(1)
	}
	if err != nil || json.Unmarshal(body, &batch) != nil || len(batch) == 0 || r.Header.Get("Content-Type") != "application/cloudevents-batch+json; charset=utf-8" {
		o.t.Errorf("a post is no batch: %s %s", r.Header.Get("Content-Type"), body)
		return
	}
	var ids []string
	o.mu.Lock()
	for _, e := range batch {
		if other, ok := o.inFlight[e.Key]; ok {
			o.t.Errorf("%s is posted while %s, of the same key, is not answered", e.ID, other)
		}
		o.inFlight[e.Key] = e.ID
		ids = append(ids, e.ID)
	}
	if !slices.IsSorted(ids) {
		o.t.Errorf("a batch is not in offset order: %v", ids)
	}
	o.batches = append(o.batches, ids)
	o.offsets = append(o.offsets, r.Header.Get("Taskwire-Offset"))
	o.attempts = append(o.attempts, r.Header.Get("Taskwire-Attempt"))
	o.largest = max(o.largest, len(body))
	status, answer, accepted := o.answer(ids)
	if single && !accepted[0] && status/100 == 2 { // of one event the status is the answer
		status = http.StatusServiceUnavailable
		_, _ = fmt.Sscanf(answer, `[{"status":%d}`, &status)
	}
	if o.takes != nil && o.takes() {
		w.Header().Set("Accept-Post", "application/cloudevents+json, application/CloudEvents-Batch+json; charset=utf-8")
	}
	for i, e := range batch {
		delete(o.inFlight, e.Key)
		if accepted[i] {
			o.accepted = append(o.accepted, e.ID)
		}
	}
	o.mu.Unlock()
	if status == 0 {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, answer)
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
	if status != http.StatusNoContent {
		_, _ = io.WriteString(w, answer)
	}
}

func all(n int, accepted bool) []bool { return slices.Repeat([]bool{accepted}, n) }

// array is an answer with a status for each event.
func array(statuses ...int) string {
	var items []string
	for _, s := range statuses {
		items = append(items, fmt.Sprintf(`{"status":%d}`, s))
	}
	return "[" + strings.Join(items, ",") + "]"
}

func batchSetup(t *testing.T, o *oracle) *bundle {
	b := setup(t, o.server.URL)
	b.cfg.Mode, b.cfg.Batch = pump.Batched, pump.Batch{Size: 100, Bytes: 512 << 10}
	return b
}

// ids are those of events(n, ...), without some.
func idsWithout(n int, without ...string) []string {
	var out []string
	for i := range n {
		if id := fmt.Sprintf("%05d", i); !slices.Contains(without, id) {
			out = append(out, id)
		}
	}
	return out
}

func lettersOf(t *testing.T, b *bundle) map[string]deadletter.Letter {
	out := map[string]deadletter.Letter{}
	for _, l := range b.letters() {
		var e struct{ ID string }
		if err := json.Unmarshal(l.Record.Value, &e); err != nil {
			t.Fatal(err)
		}
		out[e.ID] = l.Letter
	}
	return out
}

func TestWhatIsReadyGoesInBatches(t *testing.T) {
	o := newOracle(t, func(ids []string) (int, string, []bool) { return 204, "", all(len(ids), true) })
	b := batchSetup(t, o)
	b.cfg.Batch, b.cfg.Concurrency = pump.Batch{Size: 40, Bytes: 2000}, 4
	recs := events(300, 300)
	recs[17].Value = append(recs[17].Value[:len(recs[17].Value)-1], fmt.Sprintf(`,"x":%q}`, strings.Repeat("x", 1900))...)
	b.produce(recs...)
	_, stop := b.run()
	b.untilCommitted(300)
	stop()
	slices.Sort(o.accepted)
	if diff := cmp.Diff(idsWithout(300), o.accepted); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
	if len(o.batches) > 60 || o.largest > 2100 {
		t.Errorf("%d batches for 300 events, the largest of %d bytes", len(o.batches), o.largest)
	}
	for i, ids := range o.batches {
		var offsets []string
		for _, id := range ids {
			offsets = append(offsets, strings.TrimLeft(id[:4], "0")+id[4:])
		}
		if o.offsets[i] != strings.Join(offsets, ",") || o.attempts[i] != "1" {
			t.Errorf("batch of %s: Taskwire-Offset %s, Taskwire-Attempt %s", ids[0], o.offsets[i], o.attempts[i])
		}
		if slices.Contains(ids, "00017") && len(ids) > 1 {
			t.Error("the long event did not go alone")
		}
	}
	if got, _ := b.metric("taskwire_bridge_attempts_total", "outcome", "accepted"); got != 300 {
		t.Errorf("%v attempts are counted, want one for each event", got)
	}
}

// A refusal of the whole batch says nothing of an event: only the one that is
// refused alone becomes a dead letter, in key order.
func TestARefusedBatchIsToldApart(t *testing.T) {
	for _, status := range []int{400, 413, 422, 500} {
		bad := []string{"00007", "00040", "00041"}
		if status == 500 {
			bad = bad[:2] // three keys that fail would be a sink that is down
		}
		o := newOracle(t, func(ids []string) (int, string, []bool) {
			if slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(bad, id) }) {
				return status, "no", all(len(ids), false)
			}
			return 200, "ok", all(len(ids), true)
		})
		b := batchSetup(t, o)
		b.produce(events(200, 100)...)
		_, stop := b.run()
		b.untilCommitted(200)
		stop()
		slices.Sort(o.accepted)
		if diff := cmp.Diff(idsWithout(200, bad...), o.accepted); diff != "" {
			t.Errorf("%d: accepted (-want +got):\n%s", status, diff)
		}
		letters := lettersOf(t, b)
		for _, id := range bad {
			if l := letters[id]; l.Status != status || l.Attempts < 2 {
				t.Errorf("%d: letter of %s: %+v", status, id, l)
			}
		}
		if len(letters) != len(bad) {
			t.Errorf("%d: %d dead letters, want %d", status, len(letters), len(bad))
		}
		if len(o.batches) > 90 {
			t.Errorf("%d: %d posts to find %d among 200", status, len(o.batches), len(bad))
		}
	}
}

func TestEachEventOfABatchHasItsOwnOutcome(t *testing.T) {
	tries := map[string]int{}
	o := newOracle(t, func(ids []string) (int, string, []bool) {
		statuses, accepted := make([]int, len(ids)), make([]bool, len(ids))
		for i, id := range ids {
			tries[id]++
			switch statuses[i] = 201; {
			case id == "00003":
				statuses[i] = 409
			case id == "00005" && tries[id] < 3, id == "00006":
				statuses[i] = 503
			}
			accepted[i] = statuses[i] == 201
		}
		return 200, array(statuses...), accepted
	})
	b := batchSetup(t, o)
	b.produce(events(40, 20)...)
	_, stop := b.run()
	b.untilCommitted(40)
	stop()
	slices.Sort(o.accepted)
	if diff := cmp.Diff(idsWithout(40, "00003", "00006"), o.accepted); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
	letters := lettersOf(t, b)
	if l := letters["00003"]; l.Reason != deadletter.Rejected || l.Status != 409 || l.Attempts != 1 {
		t.Errorf("letter of the refused event: %+v", l)
	}
	if l := letters["00006"]; l.Reason != deadletter.Exhausted || l.Status != 503 || l.Attempts != b.cfg.Attempts {
		t.Errorf("letter of the event that never succeeds: %+v", l)
	}
	if len(letters) != 2 || tries["00005"] != 3 {
		t.Errorf("%d dead letters, %d attempts of the event that succeeds at the third", len(letters), tries["00005"])
	}
}

// While a sink is down it is probed with one event, and when it is back nothing
// was given up: a batch that failed blames none of its events.
func TestASinkThatIsDownCostsNoEventOfABatch(t *testing.T) {
	up := false
	o := newOracle(t, func(ids []string) (int, string, []bool) {
		if !up {
			return 503, "", all(len(ids), false)
		}
		return 200, "", all(len(ids), true)
	})
	b := batchSetup(t, o)
	b.cfg.Attempts, b.cfg.Concurrency = 3, 4
	b.produce(events(1000, 1000)...)
	_, stop := b.run()
	until(t, "many probes", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return len(o.batches) > 60 })
	o.mu.Lock()
	for _, ids := range o.batches[20:] {
		if len(ids) > 1 {
			t.Errorf("a sink that is down was probed with %d events", len(ids))
		}
	}
	up = true
	o.mu.Unlock()
	b.untilCommitted(1000)
	stop()
	if got := len(b.letters()); got != 0 || len(o.accepted) != 1000 {
		t.Errorf("%d dead letters, %d accepted, want 0 and 1000", got, len(o.accepted))
	}
}

// In mode auto the sink's answers decide. A sink that takes no batches sees none,
// and one that takes them no longer, and refuses one, gets its events alone.
func TestBatchesOfASinkThatSaysItTakesThem(t *testing.T) {
	var takes atomic.Bool
	refused := 0
	o := newOracle(t, func(ids []string) (int, string, []bool) {
		if len(ids) > 1 && !takes.Load() {
			refused++
			return 415, "one event, please", all(len(ids), false)
		}
		return 204, "", all(len(ids), true)
	})
	o.takes = takes.Load
	b := batchSetup(t, o)
	b.cfg.Mode, b.cfg.Concurrency = pump.Auto, 2
	_, stop := b.run()
	b.produce(events(100, 100)...)
	b.untilCommitted(100)
	if refused > 0 || o.singles.Load() != 100 {
		t.Errorf("%d batches and %d single posts to a sink that has said nothing, want 0 and 100", refused, o.singles.Load())
	}
	takes.Store(true)
	b.produce(events(300, 300)[100:]...)
	b.untilCommitted(300)
	if posts := len(o.seen()) - 100; posts > 60 {
		t.Errorf("%d posts of 200 events to a sink that takes batches", posts)
	}
	takes.Store(false)
	b.produce(events(500, 500)[300:]...)
	b.untilCommitted(500)
	stop()
	slices.Sort(o.accepted)
	if diff := cmp.Diff(idsWithout(500), o.accepted); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
	if refused == 0 || refused > 2*b.cfg.Concurrency || len(b.letters()) > 0 {
		t.Errorf("%d batches were refused and %d events given up, want one for each post in flight at most, and 0", refused, len(b.letters()))
	}
}

// Posts that hang hold up no other event, few as they may be.
func TestPostsThatHangHoldUpNobody(t *testing.T) {
	hang := make(chan struct{})
	release := sync.OnceFunc(func() { close(hang) })
	var hanging, held atomic.Int64 // posts, and events in them
	o := newOracle(t, func(ids []string) (int, string, []bool) { return 204, "", all(len(ids), true) })
	o.takes = func() bool { return true }
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(o.seen()) > 0 && hanging.Add(1) <= 3 {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			held.Add(int64(bytes.Count(body, []byte("specversion"))))
			<-hang
		}
		o.ServeHTTP(w, r)
	}))
	defer front.Close()
	defer release()
	b := batchSetup(t, o)
	b.cfg.Sink, b.cfg.Mode, b.cfg.Timeout = front.URL, pump.Auto, time.Hour // none is given up and posted again
	_, stop := b.run()
	recs := events(100, 100)
	for i, r := range recs {
		b.produce(r)
		if i == 0 {
			b.untilCommitted(1) // from here on batches are taken
		}
	}
	until(t, "all events but those that hang", func() bool {
		n := int(held.Load())
		for _, ids := range o.seen() {
			n += len(ids)
		}
		return n == 100
	})
	release()
	b.untilCommitted(100)
	stop()
}

// Time runs out for an event also when nothing but its batch could ever fail.
func TestTimeRunsOutForABatchThatReachesNobody(t *testing.T) {
	nobody := httptest.NewServer(nil)
	nobody.Close()
	b := setup(t, nobody.URL)
	b.cfg.Mode, b.cfg.Batch, b.cfg.For = pump.Batched, pump.Batch{Size: 100, Bytes: 512 << 10}, 100*time.Millisecond
	b.produce(events(2, 2)...)
	_, stop := b.run()
	b.untilCommitted(2)
	stop()
	for id, l := range lettersOf(t, b) {
		if l.Reason != deadletter.Exhausted || l.Last.Sub(l.First) < b.cfg.For {
			t.Errorf("letter of %s: %+v", id, l)
		}
	}
}

// TestBatchesAgainstAnOracle: whatever a sink answers, and wherever the bridge
// stops, each event is done exactly when the sink has accepted it or refused it
// alone, none is lost, and those of a key come in order.
func TestBatchesAgainstAnOracle(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue { // each check has a broker of its own
		_ = f.Value.Set("25")
		defer func() { _ = f.Value.Set(f.DefValue) }()
	}
	rapid.Check(t, func(r *rapid.T) {
		n, keys := rapid.IntRange(1, 150).Draw(r, "events"), rapid.IntRange(1, 40).Draw(r, "keys")
		refused := map[string]bool{}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 5).Draw(r, "refused") {
			refused[fmt.Sprintf("%05d", i)] = true
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 0))
		trouble := rapid.IntRange(0, 60).Draw(r, "posts in trouble")
		o := newOracle(t, func(ids []string) (int, string, []bool) { return answerAtRandom(rng, ids, refused, &trouble) })
		b := batchSetup(t, o)
		b.cfg.Batch = pump.Batch{Size: rapid.IntRange(1, 50).Draw(r, "size"), Bytes: rapid.IntRange(1<<10, 10<<10).Draw(r, "bytes")}
		b.cfg.Concurrency = rapid.IntRange(1, 8).Draw(r, "concurrency")
		b.cfg.Order = rapid.SampledFrom([]pump.Order{pump.ByKey, pump.None}).Draw(r, "order")
		b.cfg.Attempts = 1_000_000
		if rapid.Bool().Draw(r, "auto") {
			b.cfg.Mode, o.takes = pump.Auto, func() bool { return rng.IntN(4) > 0 }
		}
		if b.cfg.Order == pump.None {
			keys = n
		}
		b.produce(events(n, keys)...)
		for range rapid.IntRange(0, 2).Draw(r, "restarts") {
			posts := len(o.seen()) + rapid.IntRange(0, 10).Draw(r, "posts before the stop")
			_, stop := b.run()
			until(t, "some posts", func() bool { got, _ := b.committed(); return len(o.seen()) >= posts || got == int64(n) })
			stop()
		}
		_, stop := b.run()
		b.untilCommitted(int64(n))
		stop()
		o.check(r, n, keys, refused, lettersOf(t, b))
		o.server.Close()
	})
}

func (o *oracle) seen() [][]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.batches)
}

// answerAtRandom refuses what is always refused, and otherwise does whatever a
// sink may do, wrong answers included, while there is trouble left.
func answerAtRandom(rng *rand.Rand, ids []string, refused map[string]bool, trouble *int) (int, string, []bool) {
	statuses, accepted, any := make([]int, len(ids)), all(len(ids), false), false
	for i, id := range ids {
		statuses[i], accepted[i] = 201, true
		if refused[id] {
			statuses[i], accepted[i], any = 422, false, true
		}
	}
	if *trouble--; *trouble < 0 {
		return 200, array(statuses...), accepted
	}
	switch rng.IntN(8) {
	case 0: // some later
		for i := range ids {
			if !refused[ids[i]] && rng.IntN(2) == 0 {
				statuses[i], accepted[i] = []int{503, 429, 404, 302}[rng.IntN(4)], false
			}
		}
		return 200, array(statuses...), accepted
	case 1: // the whole is refused for what is in it
		if any {
			return 400, "no", all(len(ids), false)
		}
		return 200, "", accepted
	case 2:
		return 503, "", all(len(ids), false)
	case 3: // stored, and the answer is cut: it must be posted again
		return 0, array(statuses...), accepted
	case 4: // stored, and the answer has the wrong length
		return 200, array(append(statuses, 201)...), accepted
	case 5: // nothing stored, and the answer has the wrong length
		return 200, array(statuses[1:]...), all(len(ids), false)
	case 6: // nothing stored, and the statuses cannot be read
		return 200, `[{"state":"ok"}]`, all(len(ids), false)
	}
	return slices.Max(statuses), array(statuses...), accepted // as our own sinks do
}

func (o *oracle) check(r *rapid.T, n, keys int, refused map[string]bool, letters map[string]deadletter.Letter) {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := map[string]bool{}
	last := map[int]string{}
	for _, id := range o.accepted {
		var number int
		fmt.Sscanf(id, "%d", &number)
		if !first[id] && id < last[number%keys] {
			r.Errorf("%s was accepted after %s of the same key", id, last[number%keys])
		}
		if !first[id] {
			last[number%keys] = id
		}
		first[id] = true
	}
	for _, id := range idsWithout(n) {
		l, dead := letters[id]
		if first[id] == refused[id] || dead != refused[id] {
			r.Errorf("%s: refused %v, accepted %v, dead letter %v", id, refused[id], first[id], dead)
		}
		if dead && (l.Reason != deadletter.Rejected || (l.Status != 422 && l.Status != 400)) {
			r.Errorf("%s: letter %+v", id, l)
		}
	}
}
