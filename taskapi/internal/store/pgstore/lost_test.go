package pgstore_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// cutter is a connection to the server that ends after a transaction with the
// marker has been sent, before its answer.
func cutter(t *testing.T, server, marker string) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { cut(t, c, server, marker) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

func cut(t *testing.T, client net.Conn, server, marker string) {
	defer client.Close()
	up, err := net.Dial("tcp", server)
	if err != nil {
		t.Error(err)
		return
	}
	defer up.Close()
	var mu sync.Mutex
	lost := false
	var wg sync.WaitGroup
	wg.Go(func() {
		defer client.Close() // also when the server is done with the lost transaction
		buf := make([]byte, 64<<10)
		for {
			n, err := up.Read(buf)
			mu.Lock()
			swallow := lost
			mu.Unlock()
			if swallow { // the server has committed: this is its answer
				return
			}
			if n > 0 {
				if _, err := client.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if bytes.Contains(buf[:n], []byte(marker)) {
			mu.Lock()
			lost = true
			mu.Unlock()
		}
		if n > 0 {
			if _, err := up.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	if half, ok := up.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	wg.Wait()
	_, _ = io.Copy(io.Discard, up)
}

// The answer to a COMMIT that is lost is neither a success nor a failure: the
// caller repeats with its key and gets the answer of the change that was made.
func TestALostAnswerToACommit(t *testing.T) {
	db := pgtest.Start(t)
	direct, _ := start(t, config(db))
	cfg := config(db)
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = cutter(t, u.Host, "lose the answer")
	cfg.Database.URL = u.String()
	s, _ := start(t, cfg)
	a, err := s.Create(t.Context(), task.Create{Title: "x", Origin: origin})
	if err != nil {
		t.Fatal(err)
	}
	update := task.Update{ID: a.Task.ID, Patch: task.Patch{Title: new("lose the answer")}, Match: []int64{1}, Origin: origin, IdempotencyKey: key("k")}
	_, err = s.Update(t.Context(), update)
	busy := (*task.BusyError)(nil)
	if !errors.Is(err, task.ErrUnavailable) || errors.As(err, &busy) {
		t.Fatalf("update = %v, want that it is unknown", err)
	}
	again, err := direct.Update(t.Context(), update)
	if err != nil || !again.Replayed || again.Task.Version != 2 {
		t.Errorf("again = %+v, %v; want the answer of the first", again, err)
	}
	if got, err := direct.Get(t.Context(), a.Task.ID); err != nil || got.Version != 2 {
		t.Errorf("task = %+v, %v", got, err)
	}
	if _, err := s.Create(t.Context(), task.Create{Title: "y", Origin: origin}); err != nil {
		t.Errorf("the next change: %v", err)
	}
}
