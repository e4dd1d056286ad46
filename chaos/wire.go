package main

import (
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// wire is the network between two processes: a TCP proxy that can be made bad.
// Whoever asks dials addr. It takes its time, cuts and swallows bytes, and never
// alters or reorders them.
type wire struct {
	name     string // who asks whom
	pair     string // the same without the number of a bridge
	addr     string
	listener net.Listener
	links    sync.WaitGroup

	mu   sync.Mutex // guards what follows
	to   string     // "" refuses
	ill  illness
	turn int // of the illnesses, so that the timer of an old one does nothing
	open map[*link]bool
}

// illness is what is wrong with a wire; the zero value is none.
type illness struct {
	kind  string
	delay time.Duration // latency and its jitter; until a close is passed on; the longest life before a reset
	rate  int           // bytes a second
	bytes int           // how much of an answer at most passes before it is cut
	up    bool          // black hole: swallows what is asked
	down  bool          // black hole: swallows what is answered
}

// The illnesses, each a kind of fault.
const (
	latency   = "latency"
	bandwidth = "bandwidth"
	slowClose = "slow-close"
	blackHole = "black-hole"
	reset     = "reset"
	cut       = "cut"
)

var illnesses = []string{latency, bandwidth, slowClose, blackHole, reset, cut}

func newWire(name, pair, addr, to string) (*wire, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	w := &wire{name: name, pair: pair, addr: addr, listener: l, to: to, open: map[*link]bool{}}
	w.links.Go(w.accept)
	return w, nil
}

func (w *wire) accept() {
	for {
		client, err := w.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors, or gone already
			continue
		}
		w.links.Go(func() { w.carry(client.(*net.TCPConn)) })
	}
}

// leadTo says where the wire ends.
func (w *wire) leadTo(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = addr
}

func (w *wire) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open) == 0
}

// sicken replaces what is wrong. Connections that lost bytes end here: their
// streams cannot go on.
func (w *wire) sicken(ill illness) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ill = ill
	w.turn++
	for l := range w.open {
		if l.lost {
			l.end(true)
		}
		w.catch(l)
	}
}

func (w *wire) heal() { w.sicken(illness{}) }

// catch gives a connection its share of the illness; w.mu is held.
func (w *wire) catch(l *link) {
	l.left = -1
	switch w.ill.kind {
	case cut:
		l.left = rand.IntN(w.ill.bytes)
	case reset:
		turn := w.turn
		time.AfterFunc(rand.N(w.ill.delay), func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.turn == turn {
				l.end(true)
			}
		})
	}
}

func (w *wire) close() error {
	err := w.listener.Close()
	w.mu.Lock()
	w.to = ""
	for l := range w.open {
		l.end(true)
	}
	w.mu.Unlock()
	w.links.Wait()
	return err
}

// link is one connection through a wire.
type link struct {
	client, server *net.TCPConn
	once           sync.Once
	ended          chan struct{}

	left int  // bytes of the answer until the cut, -1 without one; guarded by wire.mu
	lost bool // bytes were swallowed; guarded by wire.mu
}

// end closes both sides, with a reset if so asked. Only the first call counts.
func (l *link) end(hard bool) {
	l.once.Do(func() {
		for _, c := range []*net.TCPConn{l.client, l.server} {
			if hard {
				_ = c.SetLinger(0) // closing is what matters
			}
			_ = c.Close()
		}
		close(l.ended)
	})
}

// wait is false when the connection ended first.
func (l *link) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.ended:
		return false
	case <-t.C:
		return true
	}
}

func (w *wire) carry(client *net.TCPConn) {
	w.mu.Lock()
	to := w.to
	w.mu.Unlock()
	server, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server.(*net.TCPConn), ended: make(chan struct{})}
	w.mu.Lock()
	w.open[l] = true
	w.catch(l)
	gone := w.to == ""
	w.mu.Unlock()
	if gone { // close has ended the others already
		l.end(true)
	}
	var both sync.WaitGroup
	both.Go(func() { w.pump(l, l.client, l.server, false) })
	both.Go(func() { w.pump(l, l.server, l.client, true) })
	both.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, l)
}

type chunk struct {
	at   time.Time
	data []byte
}

// pump carries one direction. Reading goes on while what was read waits, so that
// latency does not become bandwidth.
func (w *wire) pump(l *link, from, to *net.TCPConn, answer bool) {
	queue := make(chan chunk, 64)
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		defer close(queue)
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				select {
				case queue <- chunk{time.Now(), slices.Clone(buf[:n])}:
				case <-l.ended:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	for c := range queue {
		if !w.pass(l, c, to, answer) {
			l.end(false)
			return
		}
	}
	if ill := w.now(); ill.kind == slowClose {
		l.wait(ill.delay)
	}
	l.end(false)
}

func (w *wire) now() illness {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ill
}

// pass hands a chunk on as the wire's illness has it; false ends the connection.
func (w *wire) pass(l *link, c chunk, to *net.TCPConn, answer bool) bool {
	data, left := w.admit(l, c.data, answer)
	ill := w.now()
	switch ill.kind {
	case latency:
		if !l.wait(time.Until(c.at.Add(ill.delay + rand.N(ill.delay)))) {
			return false
		}
	case bandwidth:
		for piece := range slices.Chunk(data, max(1, ill.rate/20)) {
			if !l.wait(time.Second / 20) {
				return false
			}
			if _, err := to.Write(piece); err != nil {
				return false
			}
		}
		return true
	}
	if _, err := to.Write(data); err != nil {
		return false
	}
	return left
}

// admit is what of the data passes at all, and whether more may follow.
func (w *wire) admit(l *link, data []byte, answer bool) ([]byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ill.kind == blackHole && (answer && w.ill.down || !answer && w.ill.up) {
		l.lost = true
	}
	switch {
	case l.lost:
		return nil, true
	case !answer || l.left < 0:
		return data, true
	}
	n := min(l.left, len(data))
	l.left -= n
	return data[:n], l.left > 0
}
