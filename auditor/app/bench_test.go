package app_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/env"
)

// BenchmarkAppend posts new events over 64 kept connections to the auditor, and
// to a bare loop behind a plain net/http server that appends the same bodies and
// fsyncs them in groups. The two take turns, so that a busy machine slows both;
// x-bare is the auditor's rate divided by the bare one's.
func BenchmarkAppend(b *testing.B) {
	const turn = 1000
	auditorURL, opsURL := startForBench(b)
	var bareSyncs atomic.Int64
	bareURL := startBare(b, &bareSyncs)
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var took [2]time.Duration
	posts := 0
	for n := 0; b.Loop(); n++ {
		// Short turns, so that load on the machine affects both.
		for i, url := range []string{auditorURL, bareURL} {
			took[i] += load(b, client, url, n, turn)
		}
		posts += turn
	}
	b.ReportMetric(float64(posts)/took[0].Seconds(), "auditor/s")
	b.ReportMetric(float64(posts)/fsyncs(b, opsURL), "posts/fsync")
	b.ReportMetric(float64(posts)/took[1].Seconds(), "bare/s")
	b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "x-bare")
	b.ReportMetric(float64(posts)/float64(bareSyncs.Load()), "bare-posts/fsync")
}

func startForBench(b *testing.B) (url, ops string) {
	b.Helper()
	cfg, err := app.FromEnv(env.Map(map[string]string{"LISTEN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0", "AUDIT_LOG_PATH": filepath.Join(b.TempDir(), "audit.log")}))
	if err != nil {
		b.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	s, err := app.New(b.Context(), cfg, slog.New(slog.NewJSONHandler(null, nil)))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		null.Close()
	})
	return "http://" + s.Addr().String() + "/", "http://" + s.OpsAddr().String()
}

// fsyncs asks the auditor's own metric.
func fsyncs(b *testing.B, ops string) float64 {
	b.Helper()
	resp, err := http.Get(ops + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if n, ok := strings.CutPrefix(lines.Text(), "taskwire_audit_fsync_seconds_count "); ok {
			count, err := strconv.ParseFloat(n, 64)
			if err != nil {
				b.Fatal(err)
			}
			return count
		}
	}
	b.Fatal("no fsync metric")
	return 0
}

// startBare is the yardstick.
func startBare(b *testing.B, syncs *atomic.Int64) string {
	b.Helper()
	f, err := os.OpenFile(filepath.Join(b.TempDir(), "bare.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	type post struct {
		line []byte
		done chan error
	}
	posts := make(chan post, 64)
	var loop sync.WaitGroup
	loop.Go(func() {
		var buf []byte
		for first := range posts {
			batch := []post{first}
			for more := true; more; {
				select {
				case p, ok := <-posts:
					if more = ok; ok {
						batch = append(batch, p)
					}
				default:
					more = false
				}
			}
			buf = buf[:0]
			for _, p := range batch {
				buf = append(append(buf, p.line...), '\n')
			}
			_, err := f.Write(buf)
			if err == nil {
				syncs.Add(1)
				err = f.Sync()
			}
			for _, p := range batch {
				p.done <- err
			}
		}
	})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		line, err := io.ReadAll(r.Body)
		if err == nil {
			p := post{line, make(chan error, 1)}
			posts <- p
			err = <-p.done
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"seq":1,"duplicate":false}`+"\n")
	}))
	b.Cleanup(func() { srv.Close(); close(posts); loop.Wait(); f.Close() })
	return srv.URL + "/"
}

func load(b *testing.B, client *http.Client, url string, turn, posts int) time.Duration {
	b.Helper()
	began := time.Now()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(posts) {
					return
				}
				task := fmt.Sprintf("0195a1b2-c3d4-7e5f-8a6b-%04d%08d", turn, i)
				resp, err := client.Post(url, "application/cloudevents+json", bytes.NewReader([]byte(body("task.created", task, 1))))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusCreated {
					b.Errorf("answered %d", resp.StatusCode)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}
