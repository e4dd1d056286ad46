package main

import (
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// proxy is the network between two processes: a TCP proxy that can be given a
// fault. The client dials addr. It delays, cuts and drops bytes, and never
// alters or reorders them.
type proxy struct {
	name     string // client and server
	pair     string // the same without the number of a bridge
	addr     string
	listener net.Listener
	serving  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	to    string     // address of the server; "" refuses
	fault proxyFault
	turn  int // of the faults, so that the timer of an earlier one does nothing
	open  map[*link]bool
}

// proxyFault is what is wrong with a proxy; the zero value is nothing.
type proxyFault struct {
	kind  string
	delay time.Duration // latency and its jitter; until a close is passed on; at most until a reset
	rate  int           // bytes a second
	bytes int           // of an answer that pass at most before it is cut
	up    bool          // black hole: drops requests
	down  bool          // black hole: drops answers
}

// The kinds of faults of a proxy.
const (
	latency   = "latency"
	bandwidth = "bandwidth"
	slowClose = "slow-close"
	blackHole = "black-hole"
	reset     = "reset"
	cut       = "cut"
)

var proxyFaults = []string{latency, bandwidth, slowClose, blackHole, reset, cut}

func newProxy(name, pair, addr, to string) (*proxy, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &proxy{name: name, pair: pair, addr: addr, listener: l, to: to, open: map[*link]bool{}}
	p.serving.Go(p.accept)
	return p, nil
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors, or the client is gone
			continue
		}
		p.serving.Go(func() { p.serve(client.(*net.TCPConn)) })
	}
}

// connectTo sets the address of the server.
func (p *proxy) connectTo(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = addr
}

func (p *proxy) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open) == 0
}

// inject replaces the fault. Connections that lost bytes end here: their
// streams cannot go on.
func (p *proxy) inject(f proxyFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
	p.turn++
	for l := range p.open {
		if l.lost {
			l.end(true)
		}
		p.apply(l)
	}
}

func (p *proxy) heal() { p.inject(proxyFault{}) }

// apply prepares a connection for the fault; p.mu is held.
func (p *proxy) apply(l *link) {
	l.left = -1
	switch p.fault.kind {
	case cut:
		l.left = rand.IntN(p.fault.bytes)
	case reset:
		turn := p.turn
		time.AfterFunc(rand.N(p.fault.delay), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.turn == turn {
				l.end(true)
			}
		})
	}
}

func (p *proxy) close() error {
	err := p.listener.Close()
	p.mu.Lock()
	p.to = ""
	for l := range p.open {
		l.end(true)
	}
	p.mu.Unlock()
	p.serving.Wait()
	return err
}

// link is one connection through a proxy.
type link struct {
	client, server *net.TCPConn
	once           sync.Once
	ended          chan struct{}

	left int  // bytes of the answer until the cut, -1 without one; guarded by proxy.mu
	lost bool // bytes were dropped; guarded by proxy.mu
}

// end closes both sides, with a reset if hard. Only the first call counts.
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

// wait returns false when the connection ended first.
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

func (p *proxy) serve(client *net.TCPConn) {
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server.(*net.TCPConn), ended: make(chan struct{})}
	p.mu.Lock()
	p.open[l] = true
	p.apply(l)
	closed := p.to == ""
	p.mu.Unlock()
	if closed { // close has ended the others already
		l.end(true)
	}
	var both sync.WaitGroup
	both.Go(func() { p.copy(l, l.client, l.server, false) })
	both.Go(func() { p.copy(l, l.server, l.client, true) })
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, l)
}

type chunk struct {
	at   time.Time
	data []byte
}

// copy passes on one direction. It keeps reading while chunks wait, so that
// latency does not become bandwidth.
func (p *proxy) copy(l *link, from, to *net.TCPConn, answer bool) {
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
		if !p.pass(l, c, to, answer) {
			l.end(false)
			return
		}
	}
	if f := p.current(); f.kind == slowClose {
		l.wait(f.delay)
	}
	l.end(false)
}

func (p *proxy) current() proxyFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// pass writes a chunk as the fault has it; false ends the connection.
func (p *proxy) pass(l *link, c chunk, to *net.TCPConn, answer bool) bool {
	data, more := p.admit(l, c.data, answer)
	f := p.current()
	switch f.kind {
	case latency:
		if !l.wait(time.Until(c.at.Add(f.delay + rand.N(f.delay)))) {
			return false
		}
	case bandwidth:
		for piece := range slices.Chunk(data, max(1, f.rate/20)) {
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
	return more
}

// admit returns the part of data that passes, and whether more may follow.
func (p *proxy) admit(l *link, data []byte, answer bool) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault.kind == blackHole && (answer && p.fault.down || !answer && p.fault.up) {
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
