package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/freeport"
)

// echo sends back what each connection receives.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	return l.Addr().String()
}

func testProxy(t *testing.T) *proxy {
	t.Helper()
	p, err := newProxy("a->b", "a->b", freeport.Addr(), echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func dial(t *testing.T, p *proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends data and reads as much back.
func ask(c net.Conn, data []byte) ([]byte, error) {
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() { _, _ = c.Write(data) }) // a failure shows in the answer
	got := make([]byte, len(data))
	n, err := io.ReadFull(c, got)
	return got[:n], err
}

func TestAProxyWithoutFaultPassesEveryByte(t *testing.T) {
	p := testProxy(t)
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	for range 3 {
		if got, err := ask(dial(t, p), data); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d of %d bytes came back: %v", len(got), len(data), err)
		}
	}
}

func TestSlowProxiesAlterNothing(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 4000)
	for _, f := range []proxyFault{{kind: latency, delay: 100 * time.Millisecond}, {kind: bandwidth, rate: 20000}} {
		p := testProxy(t)
		c := dial(t, p)
		if _, err := ask(c, data); err != nil { // the connection is older than the fault
			t.Fatal(err)
		}
		p.inject(f)
		began := time.Now()
		got, err := ask(c, data)
		if took := time.Since(began); err != nil || !bytes.Equal(got, data) || took < 200*time.Millisecond {
			t.Errorf("%s: %d bytes after %v: %v", f.kind, len(got), took, err)
		}
		p.heal()
		if got, err := ask(c, data); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s healed: %d bytes: %v", f.kind, len(got), err)
		}
	}
}

func TestACutAnswerIsAPrefix(t *testing.T) {
	p := testProxy(t)
	p.inject(proxyFault{kind: cut, bytes: 1000})
	data := bytes.Repeat([]byte("0123456789"), 200)
	got, err := ask(dial(t, p), data)
	if err == nil || len(got) >= 1000 || !bytes.HasPrefix(data, got) {
		t.Errorf("%d bytes, %v; want fewer than 1000 and an error", len(got), err)
	}
}

func TestResetEndsOldAndNewConnections(t *testing.T) {
	p := testProxy(t)
	old := dial(t, p)
	if _, err := ask(old, []byte("x")); err != nil {
		t.Fatal(err)
	}
	p.inject(proxyFault{kind: reset, delay: 50 * time.Millisecond})
	for _, c := range []net.Conn{old, dial(t, p)} {
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the connection ended by %v, want a reset", err)
		}
	}
}

// What a black hole dropped is lost: the connection must not go on afterwards.
func TestABlackHoleDropsBytesAndEndsTheConnection(t *testing.T) {
	for _, f := range []proxyFault{{kind: blackHole, up: true}, {kind: blackHole, down: true}} {
		p := testProxy(t)
		p.inject(f)
		c := dial(t, p)
		if _, err := c.Write([]byte("lost")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 9)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%+v: read %d bytes, %v; want none and a timeout", f, n, err)
		}
		p.heal()
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 9)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%+v: read %d bytes, %v after the fault; want the end of the connection", f, n, err)
		}
		if got, err := ask(dial(t, p), []byte("again")); err != nil || string(got) != "again" {
			t.Errorf("%+v: a new connection answers %q, %v", f, got, err)
		}
	}
}

func TestASlowCloseIsLate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var server sync.WaitGroup
	t.Cleanup(server.Wait)
	server.Go(func() {
		if c, err := l.Accept(); err == nil {
			_ = c.Close()
		}
		_ = l.Close()
	})
	p, err := newProxy("a->b", "a->b", freeport.Addr(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.close() })
	p.inject(proxyFault{kind: slowClose, delay: 200 * time.Millisecond})
	began := time.Now()
	if _, err := io.ReadAll(dial(t, p)); err != nil || time.Since(began) < 200*time.Millisecond {
		t.Errorf("closed after %v: %v", time.Since(began), err)
	}
}
