package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// watch observes the system while it runs: committed offsets, images of the
// audit log, memory and open files.
type watch struct {
	y         *system
	client    *kafkago.Client
	transport *kafka.Transport
	commits   *file
	snapshots *file
	limits    map[string]int // peaks by process and unit; owned by run until it has returned

	mu        sync.Mutex // guards what follows
	committed map[int]int64
	ends      map[int]int64
}

func newWatch(y *system) (*watch, error) {
	cfg := kafka.Config{Brokers: y.brokers, ClientID: "chaos"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		return nil, err
	}
	w := &watch{y: y, transport: transport, client: kafka.NewClient(cfg, transport), limits: map[string]int{}, committed: map[int]int64{}, ends: map[int]int64{}}
	if w.commits, err = y.file("commits.jsonl"); err != nil {
		return nil, err
	}
	w.snapshots, err = y.file("snapshots.jsonl")
	return w, err
}

func (w *watch) run(ctx context.Context) error {
	for n := 0; retry.Pause(ctx, 500*time.Millisecond) == nil; n++ {
		w.readOffsets(ctx)
		w.measure()
		if n%6 == 0 {
			if err := w.snapshot(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// readOffsets returns false when the broker does not answer, which is normal.
func (w *watch) readOffsets(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	committed, ends, err := w.offsets(ctx, auditGroup)
	if err != nil {
		kafka.Forget(w.client)
		return false
	}
	at := w.y.clock.now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, o := range committed {
		w.committed[p], w.ends[p] = o, ends[p]
		_ = w.commits.write(check.Commit{Partition: p, Offset: o, At: at})
	}
	return true
}

func (w *watch) offsets(ctx context.Context, group string) (committed, ends map[int]int64, err error) {
	var all []int
	var last []kafkago.OffsetRequest
	for p := range w.y.partitions() {
		all, last = append(all, p), append(last, kafkago.LastOffsetOf(p))
	}
	got, err := w.client.OffsetFetch(ctx, &kafkago.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: all}})
	if err == nil {
		err = got.Error
	}
	if err != nil {
		return nil, nil, err
	}
	listed, err := w.client.ListOffsets(ctx, &kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{topic: last}})
	if err != nil {
		return nil, nil, err
	}
	committed, ends = map[int]int64{}, map[int]int64{}
	for _, p := range got.Topics[topic] {
		if p.Error != nil {
			return nil, nil, p.Error
		}
		committed[p.Partition] = p.CommittedOffset
	}
	for _, p := range listed.Topics[topic] {
		if p.Error != nil {
			return nil, nil, p.Error
		}
		ends[p.Partition] = p.LastOffset
	}
	if len(committed) != w.y.partitions() || len(ends) != w.y.partitions() {
		return nil, nil, errors.New("not all partitions answered")
	}
	return committed, ends, nil
}

func (w *watch) lag() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return lagOf(w.committed, w.ends)
}

func lagOf(committed, ends map[int]int64) int64 {
	var sum int64
	for p, end := range ends {
		sum += end - max(0, committed[p])
	}
	return sum
}

// waiting returns what is not delivered yet, "" when everything is.
func (w *watch) waiting(ctx context.Context) string {
	pending, ok := metric(ctx, w.y.ops["taskapi"], "taskwire_outbox_pending")
	switch {
	case !ok:
		return "taskapi does not answer"
	case pending > 0:
		return fmt.Sprintf("outbox %.0f", pending)
	case !w.readOffsets(ctx):
		return "kafka does not answer"
	}
	if lag := w.lag(); lag > 0 {
		return fmt.Sprintf("lag %d", lag)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	committed, ends, err := w.offsets(ctx, noticeGroup)
	if err != nil {
		return "kafka does not answer"
	}
	if lag := lagOf(committed, ends); lag > 0 {
		return fmt.Sprintf("lag of the notifier %d", lag)
	}
	return ""
}

// metric returns the sum of all samples of a name.
func metric(ctx context.Context, addr, name string) (sum float64, found bool) {
	all := samples(ctx, addr, name)
	for _, v := range all {
		sum += v
	}
	return sum, len(all) > 0
}

// samples returns all samples of a name; none when the process does not answer.
func samples(ctx context.Context, addr, name string) (all []float64) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return nil
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 1<<20))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err == nil {
			all = append(all, v)
		}
	}
	return all
}

// measure updates the peaks of memory and open files, where there is a /proc.
func (w *watch) measure() {
	for _, p := range w.y.programs() {
		proc := fmt.Sprintf("/proc/%d/", p.pid())
		status, err := os.ReadFile(proc + "status")
		if err != nil {
			continue
		}
		if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
			if kib, err := strconv.Atoi(strings.Fields(rest)[0]); err == nil {
				w.limits[p.name+" MiB"] = max(w.limits[p.name+" MiB"], kib>>10)
			}
		}
		if open, err := os.ReadDir(proc + "fd"); err == nil {
			w.limits[p.name+" files"] = max(w.limits[p.name+" files"], len(open))
		}
	}
}

// snapshot records size and hash of the audit log up to its last line feed.
func (w *watch) snapshot(ctx context.Context) error {
	if w.y.powerLoss.Load() {
		return nil
	}
	at := w.y.clock.now()
	image, err := w.y.auditLog(ctx)
	if errors.Is(err, fs.ErrNotExist) || w.y.auditsDatabase() && err != nil {
		return nil //nolint:nilerr // nothing was written yet, or the server is down
	}
	if err != nil {
		return err
	}
	image = image[:bytes.LastIndexByte(image, '\n')+1]
	sum := sha256.Sum256(image)
	return w.snapshots.write(check.Snapshot{At: at, Size: int64(len(image)), Sum: hex.EncodeToString(sum[:])})
}

// readSegments reads the log's full segments and its newest file. It starts again
// when a segment became full meanwhile. A file that is just being sealed has two
// names.
func readSegments(path string) (image []byte, err error) {
	for before := -1; ; {
		names, err := filepath.Glob(path + "." + strings.Repeat("[0-9]", 12))
		if err != nil || len(names) == before {
			return image, err
		}
		before, image = len(names), nil
		if len(names) == 0 || !sameFile(names[len(names)-1], path) {
			names = append(names, path)
		}
		for _, name := range names {
			part, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			image = append(image, part...)
		}
	}
}

func sameFile(a, b string) bool {
	one, err1 := os.Stat(a)
	two, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(one, two)
}
