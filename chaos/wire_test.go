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
)

// echo answers each connection with what it asks.
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

func testWire(t *testing.T) *wire {
	t.Helper()
	w, err := newWire("a->b", "a->b", freePort(), echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func dial(t *testing.T, w *wire) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", w.addr)
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
	sending.Go(func() { _, _ = c.Write(data) }) // what fails shows in the answer
	got := make([]byte, len(data))
	n, err := io.ReadFull(c, got)
	return got[:n], err
}

func TestAHealthyWireCarriesEveryByte(t *testing.T) {
	w := testWire(t)
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	for range 3 {
		if got, err := ask(dial(t, w), data); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d of %d bytes came back: %v", len(got), len(data), err)
		}
	}
}

func TestSlowWiresAlterNothing(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 4000)
	for _, ill := range []illness{{kind: latency, delay: 100 * time.Millisecond}, {kind: bandwidth, rate: 20000}} {
		w := testWire(t)
		c := dial(t, w)
		if _, err := ask(c, data); err != nil { // the connection is older than the illness
			t.Fatal(err)
		}
		w.sicken(ill)
		began := time.Now()
		got, err := ask(c, data)
		if took := time.Since(began); err != nil || !bytes.Equal(got, data) || took < 200*time.Millisecond {
			t.Errorf("%s: %d bytes after %v: %v", ill.kind, len(got), took, err)
		}
		w.heal()
		if got, err := ask(c, data); err != nil || !bytes.Equal(got, data) {
			t.Errorf("healed of %s: %d bytes: %v", ill.kind, len(got), err)
		}
	}
}

func TestACutAnswerIsAPrefix(t *testing.T) {
	w := testWire(t)
	w.sicken(illness{kind: cut, bytes: 1000})
	data := bytes.Repeat([]byte("0123456789"), 200)
	got, err := ask(dial(t, w), data)
	if err == nil || len(got) >= 1000 || !bytes.HasPrefix(data, got) {
		t.Errorf("%d bytes, %v; want a prefix of less than 1000 and an error", len(got), err)
	}
}

func TestResetEndsOldAndNewConnections(t *testing.T) {
	w := testWire(t)
	old := dial(t, w)
	if _, err := ask(old, []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.sicken(illness{kind: reset, delay: 50 * time.Millisecond})
	for _, c := range []net.Conn{old, dial(t, w)} {
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the connection ended with %v, want a reset", err)
		}
	}
}

// What a black hole swallowed is lost: the connection may not go on after it.
func TestABlackHoleSwallowsAndTheConnectionEnds(t *testing.T) {
	for _, ill := range []illness{{kind: blackHole, up: true}, {kind: blackHole, down: true}} {
		w := testWire(t)
		w.sicken(ill)
		c := dial(t, w)
		if _, err := c.Write([]byte("lost")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 9)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%+v: read %d bytes, %v; want silence", ill, n, err)
		}
		w.heal()
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 9)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%+v: read %d bytes, %v after the hole; want the end", ill, n, err)
		}
		if got, err := ask(dial(t, w), []byte("again")); err != nil || string(got) != "again" {
			t.Errorf("%+v: a new connection answers %q, %v", ill, got, err)
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
	w, err := newWire("a->b", "a->b", freePort(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.close() })
	w.sicken(illness{kind: slowClose, delay: 200 * time.Millisecond})
	began := time.Now()
	if _, err := io.ReadAll(dial(t, w)); err != nil || time.Since(began) < 200*time.Millisecond {
		t.Errorf("closed after %v: %v", time.Since(began), err)
	}
}
