package httpd

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

const (
	// defaultConnections bounds the public port, MAX_CONNECTIONS.
	defaultConnections = 512
	// opsConnections bounds the operator port.
	opsConnections = 64
	// opsReserve is how many connections the operator port can still take when the
	// process is out of file descriptors, so that it is not restarted for that.
	opsReserve = 4
	// turn is how long a connection may keep the service waiting in any case: under
	// a flood of new ones, everybody comes later instead of being cut off at once.
	turn = 250 * time.Millisecond
)

// door is a listener that holds a bounded number of connections. When one more
// comes, it closes the one that has let the service wait for the longest time, if
// that is longer than a turn: one that is idle, sends its request slowly, or does
// not read its answer. So a crowd of such connections keeps nobody out for long. A
// connection whose request is being worked on is never closed.
type door struct {
	net.Listener
	most    int
	log     *slog.Logger
	noFiles rate.Sometimes
	stop    chan struct{} // closed by Close

	mu      sync.Mutex
	waiting *list.List    // of *conn, those that the service waits for, oldest first
	held    int           // open connections
	left    chan struct{} // closed and replaced when a connection ends
	reserve []*os.File    // descriptors to give up when there are no others
	spare   int           // full size of reserve
}

func newDoor(l net.Listener, most, spare int, log *slog.Logger) *door {
	d := &door{
		Listener: l, most: most, log: log, spare: spare, noFiles: rate.Sometimes{Interval: 10 * time.Second},
		stop: make(chan struct{}), waiting: list.New(), left: make(chan struct{}),
	}
	d.refill()
	return d
}

// conn is a connection and whether the service waits for its client.
type conn struct {
	net.Conn
	door *door
	// All are guarded by door.mu.
	place *list.Element // in door.waiting, nil while the service works
	since time.Time     // when it was put there
	gone  bool

	replay []byte // read by a front and not taken; for net/http
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.replay) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.replay)
	if c.replay = c.replay[n:]; len(c.replay) == 0 {
		c.replay = nil
	}
	return n, nil
}

// Accept returns a connection that there is room for.
func (d *door) Accept() (net.Conn, error) {
	for {
		accepted, err := d.Listener.Accept()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			d.outOfFiles(err)
			continue
		}
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: accepted, door: d}
		if !d.admit(c) {
			return nil, errors.Join(net.ErrClosed, accepted.Close())
		}
		return c, nil
	}
}

// admit waits for room; it reports false when the door is closed.
func (d *door) admit(c *conn) bool {
	for {
		d.mu.Lock()
		if d.held < d.most {
			d.held++
			c.since, c.place = time.Now(), d.waiting.PushBack(c)
			d.mu.Unlock()
			return true
		}
		oldest, patient := d.oldest()
		left := d.left
		d.mu.Unlock()
		if oldest != nil {
			_ = oldest.Close() // its client learns of it
			continue
		}
		if !d.pause(patient, left) {
			return false
		}
	}
}

// oldest is the connection that has been waited for the longest, or nil and how
// long to wait until there may be one. mu is held.
func (d *door) oldest() (*conn, time.Duration) {
	first := d.waiting.Front()
	if first == nil {
		return nil, turn
	}
	c := first.Value.(*conn)
	if left := turn - time.Since(c.since); left > 0 {
		return nil, left
	}
	return c, 0
}

// pause ends early when a connection does; it reports false when the door is closed.
func (d *door) pause(most time.Duration, left <-chan struct{}) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-left:
	case <-d.stop:
		return false
	}
	return true
}

// outOfFiles makes a descriptor free or waits: the caller was not accepted yet
// and will be.
func (d *door) outOfFiles(err error) {
	d.noFiles.Do(func() {
		d.log.Error("out of file descriptors, connections wait; raise the limit (ulimit -n)", "limit", openFiles(), "addr", d.Addr().String(), "err", err)
	})
	d.mu.Lock()
	oldest, _ := d.oldest()
	left := d.left
	var given *os.File
	if n := len(d.reserve); oldest == nil && n > 0 {
		given, d.reserve = d.reserve[n-1], d.reserve[:n-1]
	}
	d.mu.Unlock()
	switch {
	case oldest != nil:
		_ = oldest.Close()
	case given != nil:
		_ = given.Close()
	default:
		// Without a pause the loop would keep a processor busy.
		d.pause(turn/2, left)
	}
}

// refill takes descriptors into the reserve, as far as there are any.
func (d *door) refill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.reserve) < d.spare {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return // tried again when a connection ends
		}
		d.reserve = append(d.reserve, f)
	}
}

// Close ends Accept and gives the reserve back.
func (d *door) Close() error {
	d.mu.Lock()
	select {
	case <-d.stop:
		d.mu.Unlock()
		return net.ErrClosed
	default:
	}
	close(d.stop)
	d.spare = 0
	reserve := d.reserve
	d.reserve = nil
	d.mu.Unlock()
	errs := []error{d.Listener.Close()}
	for _, f := range reserve {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// wait notes that the service can do nothing before the client sends or reads. It
// reports whether that was so before.
func (c *conn) wait() (was bool) {
	d := c.door
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case c.gone:
	case c.place != nil:
		c.since = time.Now()
		d.waiting.MoveToBack(c.place)
		return true
	default:
		c.since, c.place = time.Now(), d.waiting.PushBack(c)
	}
	return false
}

// work notes that it is the service's turn.
func (c *conn) work() {
	d := c.door
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.place != nil {
		d.waiting.Remove(c.place)
		c.place = nil
	}
}

func (c *conn) Write(p []byte) (int, error) {
	if !c.wait() {
		defer c.work()
	}
	return c.Conn.Write(p)
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	d := c.door
	d.mu.Lock()
	if !c.gone {
		c.gone = true
		d.held--
		if c.place != nil {
			d.waiting.Remove(c.place)
			c.place = nil
		}
		close(d.left)
		d.left = make(chan struct{})
	}
	short := len(d.reserve) < d.spare
	d.mu.Unlock()
	if short {
		d.refill()
	}
	return err
}

// connState follows net/http: a connection is new or idle until a request's
// header is complete.
func connState(c net.Conn, state http.ConnState) {
	switch held, ok := c.(*conn); {
	case !ok:
	case state == http.StateNew, state == http.StateIdle:
		held.wait()
	case state == http.StateActive:
		held.work()
	}
}

type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// connOf is the connection of a request, nil in tests without a server.
func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// openFiles is the process's limit of file descriptors, 0 when it is unknown.
func openFiles() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return int(min(r.Cur, 1<<30)) //nolint:gosec // bounded
}

// publicConnections leaves half of the descriptors to files, to the operator port
// and to connections that the service opens itself.
func publicConnections(want int, log *slog.Logger) int {
	if want == 0 {
		want = defaultConnections
	}
	files := openFiles()
	if files == 0 || want <= files/2 {
		return want
	}
	log.Warn("fewer connections than MAX_CONNECTIONS: the limit of file descriptors is low (ulimit -n)",
		"connections", max(files/2, 1), "max_connections", want, "limit", files)
	return max(files/2, 1)
}
