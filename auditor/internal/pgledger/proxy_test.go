package pgledger_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/taskwire/taskwire/internal/pgtest"
)

// A proxy stands between the ledger and PostgreSQL and breaks one connection at
// the next commit.
type proxy struct {
	t        *testing.T
	listener net.Listener
	server   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	next  fault
	hit   chan struct{} // closed when the fault has happened
	held  chan struct{} // closed to let a held commit go
	conns map[net.Conn]bool
}

type fault int

const (
	none      fault = iota
	cutBefore       // the batch and its COMMIT are lost on the way
	cutAfter        // the server has committed, its answer is lost
	holdBack        // the batch and its COMMIT are on the way for ever
)

// newProxy returns a proxy and the database's URL through it.
func newProxy(t *testing.T, db *pgtest.Database) (*proxy, string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, server: u.Host, held: make(chan struct{}), conns: map[net.Conn]bool{}}
	u.Host = l.Addr().String()
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		_ = l.Close()
		p.release()
		p.mu.Lock()
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p, u.String()
}

// arm lets the fault happen at the next commit; the channel is closed when it has.
func (p *proxy) arm(f fault) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next, p.hit = f, make(chan struct{})
	return p.hit
}

func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.held:
	default:
		close(p.held)
	}
}

// take reports whether the fault is due, and that it happens now.
func (p *proxy) take(f fault) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next != f {
		return false
	}
	p.next = none
	close(p.hit)
	return true
}

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.t.Error(err)
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close() // the test has stopped its server
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		done := make(chan struct{}) // closed by the first direction that ends
		var once sync.Once
		end := func() { once.Do(func() { close(done); _ = client.Close(); _ = server.Close() }) }
		p.wg.Go(func() { defer end(); p.copy(server, client, p.fromClient) })
		p.wg.Go(func() { defer end(); p.copy(client, server, p.fromServer) })
	}
}

func (p *proxy) copy(to, from net.Conn, pass func([]byte) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !pass(buf[:n]) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				return // reset: the other end was killed
			}
			return
		}
	}
}

// fromClient knows the commit by the lines in front of it.
func (p *proxy) fromClient(b []byte) bool {
	if !bytes.Contains(b, []byte(`"event_id"`)) {
		return true
	}
	if p.take(holdBack) {
		<-p.held
		return false
	}
	return !p.take(cutBefore)
}

func (p *proxy) fromServer(b []byte) bool {
	return !bytes.Contains(b, []byte("COMMIT\x00")) || !p.take(cutAfter)
}
