package app

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/bridge/internal/admin"
)

const (
	lookEvery  = time.Second      // at the file
	againAfter = 30 * time.Second // a file that was refused is read again: what it names may be there by now
)

// reload follows the configuration file. A file that is wrong changes nothing. But
// for state it is owned by the goroutine of run.
type reload struct {
	cfg   Config
	fleet *fleet
	log   *slog.Logger
	ask   chan struct{} // has room for one

	seen  fs.FileInfo // of the file when it was last read; nil when there was none
	found fs.FileInfo // of a file that differs, at the last look
	moved bool        // found is valid
	tried time.Time   // when it was last read

	ok      prometheus.Gauge
	reloads *prometheus.CounterVec

	mu    sync.Mutex
	state admin.File
}

func newReload(cfg Config, fleet *fleet, reg prometheus.Registerer, log *slog.Logger) *reload {
	r := &reload{
		cfg: cfg, fleet: fleet, log: log, ask: make(chan struct{}, 1), seen: cfg.seen, state: admin.File{Path: cfg.File, LoadedAt: time.Now().UTC()},
		ok: prometheus.NewGauge(prometheus.GaugeOpts{Name: "taskwire_bridge_config_ok", Help: "1 while the configuration file is in force, 0 while it was refused when it was last read."}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "taskwire_bridge_config_reloads_total", Help: "Changes of the configuration file, by result: success or failure.",
		}, []string{"result"}),
	}
	reg.MustRegister(r.ok, r.reloads)
	r.ok.Set(1)
	r.reloads.WithLabelValues("success")
	r.reloads.WithLabelValues("failure")
	return r
}

// State is for GET /subscriptions.
func (r *reload) State() admin.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// run starts the subscriptions in group, and changes them as the file does, until
// ctx ends.
func (r *reload) run(ctx context.Context, group *errgroup.Group) {
	r.fleet.launch(ctx, group)
	var looks <-chan time.Time
	if r.cfg.File != "" {
		ticker := time.NewTicker(lookEvery)
		defer ticker.Stop()
		looks = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.ask:
			if r.cfg.File == "" {
				r.log.Info("no configuration file to read again; BRIDGE_CONFIG is not set")
				continue
			}
			r.read()
		case <-looks:
			if !r.changed() && (r.State().Error == "" || time.Since(r.tried) < againAfter) {
				continue
			}
			r.read()
		}
		r.fleet.launch(ctx, group)
	}
}

// changed reports whether the file is another than the one that was read, and no
// longer being written: it has been the same for one look. It sees what
// secretfile does.
func (r *reload) changed() bool {
	info := stat(r.cfg.File)
	if same(r.seen, info) {
		r.moved = false
		return false
	}
	if !r.moved || !same(r.found, info) {
		r.found, r.moved = info, true
		return false
	}
	return true
}

// read puts the file in force, or reports why it does not.
func (r *reload) read() {
	r.seen, r.moved, r.tried = stat(r.cfg.File), false, time.Now() // before the read: a change in between is seen at the next look
	f, wrong := r.cfg.read()
	var now applied
	if len(wrong) == 0 {
		var err error
		if now, err = r.fleet.apply(f.Subscriptions); err != nil {
			wrong = []string{err.Error()}
		}
	}
	if len(wrong) > 0 {
		r.refuse(wrong)
		return
	}
	r.ok.Set(1)
	r.reloads.WithLabelValues("success").Inc()
	r.log.Info("configuration read again", "path", r.cfg.File, "unchanged", now.kept, "started", now.started, "stopped", now.stopped)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.LoadedAt, r.state.Error = time.Now().UTC(), ""
}

// refuse reports mistakes, the same ones once.
func (r *reload) refuse(wrong []string) {
	text := strings.Join(wrong, "\n")
	if r.State().Error == text {
		return
	}
	r.ok.Set(0)
	r.reloads.WithLabelValues("failure").Inc()
	r.log.Error("configuration refused, the one before stays in force", "path", r.cfg.File, "mistakes", slices.Clone(wrong))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Error = text
}

// stat is nil for a file that cannot be looked at.
func stat(path string) fs.FileInfo {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

// same sees a file replaced by name, by symbolic link, as Kubernetes does with a
// mounted ConfigMap, and one written in place.
func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}
