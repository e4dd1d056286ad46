package deliver_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

// scripted runs script on each connection; it ends when the client or the test
// closes the connection.
func scripted(t *testing.T, script func(c *net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() { script(c.(*net.TCPConn)) })
		}
	})
	return "http://" + l.Addr().String()
}

// request reads one; it returns false when there is none.
func request(in *bufio.Reader) bool {
	r, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err == nil
}

// flood writes text until nobody takes it any more.
func flood(c net.Conn, text string, sent *atomic.Int64) {
	piece := []byte(strings.Repeat(text, 1+4096/len(text)))
	for {
		n, err := c.Write(piece)
		sent.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// hang waits until the client is gone.
func hang(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// TestWhatASinkMayDo: each is over within the time of an attempt, takes bounded
// memory, and is a success only when the answer says so and is whole.
func TestWhatASinkMayDo(t *testing.T) {
	var sent atomic.Int64
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	trickle := func(c net.Conn, text string) {
		for {
			for i := range len(text) {
				if _, err := io.WriteString(c, text[i:i+1]); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond) // it is a sink that is slow
			}
		}
	}
	say := func(text string) func(c *net.TCPConn) {
		return func(c *net.TCPConn) { _, _ = io.WriteString(c, text); hang(c) }
	}
	for name, c := range map[string]struct {
		answer func(c *net.TCPConn) // after the request was read
		want   deliver.Outcome
	}{
		"answers":                  {say(ok), deliver.Accepted},
		"closes":                   {func(c *net.TCPConn) { c.Close() }, deliver.Retry},
		"resets":                   {func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() }, deliver.Retry},
		"resets within its answer": {func(c *net.TCPConn) { _, _ = io.WriteString(c, ok[:30]); _ = c.SetLinger(0); c.Close() }, deliver.Retry},
		"hangs":                    {func(c *net.TCPConn) { hang(c) }, deliver.Retry},
		"hangs within its header":  {say(ok[:20]), deliver.Retry},
		"hangs before its body":    {say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"), deliver.Retry},
		"hangs within its body":    {say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), deliver.Retry},
		"never ends its chunks":    {say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), deliver.Retry},
		"trickles a header":        {func(c *net.TCPConn) { trickle(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1000)) }, deliver.Retry},
		"trickles its body":        {func(c *net.TCPConn) { trickle(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n") }, deliver.Retry},
		"endless headers":          {func(c *net.TCPConn) { _, _ = io.WriteString(c, ok[:17]); flood(c, "X: y\r\n", &sent) }, deliver.Retry},
		"one endless header":       {func(c *net.TCPConn) { _, _ = io.WriteString(c, ok[:17]+"X: "); flood(c, "x", &sent) }, deliver.Retry},
		"endless status":           {func(c *net.TCPConn) { _, _ = io.WriteString(c, "HTTP/1.1 200 "); flood(c, "x", &sent) }, deliver.Retry},
		"endless 100":              {func(c *net.TCPConn) { flood(c, "HTTP/1.1 100 Continue\r\n\r\n", &sent) }, deliver.Retry},
		"endless 103":              {func(c *net.TCPConn) { flood(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", &sent) }, deliver.Retry},
		"endless body":             {func(c *net.TCPConn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); flood(c, "x", &sent) }, deliver.Accepted},
		"endless chunks": {func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			flood(c, "1\r\nx\r\n", &sent)
		}, deliver.Accepted},
		"endless chunk extension": {func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
			flood(c, "x", &sent)
		}, deliver.Retry},
		"a few 1xx first":  {say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + ok), deliver.Accepted},
		"only 1xx":         {say("HTTP/1.1 100 Continue\r\n\r\n"), deliver.Retry},
		"another protocol": {say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), deliver.SinkFault},
		"HTTP/1.0":         {func(c *net.TCPConn) { _, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nok"); c.Close() }, deliver.Accepted},
		"HTTP/1.0 cut": {func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nok")
			c.Close()
		}, deliver.Retry},
		"more body than announced":     {say(ok + " and more"), deliver.Accepted},
		"two lengths":                  {say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), deliver.Retry},
		"a negative length":            {say("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"), deliver.Retry},
		"a status of four digits":      {say("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"), deliver.Retry},
		"a status that is no number":   {say("HTTP/1.1 OK 200\r\nContent-Length: 0\r\n\r\n"), deliver.Retry},
		"a status that nobody defined": {say("HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n"), deliver.Retry},
		"a compressed answer":          {say("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nno"), deliver.Accepted},
	} {
		t.Run(name, func(t *testing.T) {
			sent.Store(0)
			url := scripted(t, func(conn *net.TCPConn) {
				if request(bufio.NewReader(conn)) {
					c.answer(conn)
				}
			})
			client, err := deliver.New(deliver.Config{URL: url, Timeout: 700 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			start := time.Now()
			if got := once(t, client, deliver.Post{Body: []byte("{}")}); got.Outcome != c.want || (got.Err == nil) != (c.want == deliver.Accepted) {
				t.Errorf("Attempt = %+v, want %s", got, c.want)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("the attempt took %v", took)
			}
			if n := sent.Load(); n > 8<<20 {
				t.Errorf("the sink could send %d bytes, want at most 8 MiB", n)
			}
		})
	}
}

// TestAnAnswerBeforeTheBodyIsRead: a refusal that comes early is one all the same,
// and no broken connection.
func TestAnAnswerBeforeTheBodyIsRead(t *testing.T) {
	url := scripted(t, func(c *net.TCPConn) {
		in := bufio.NewReader(c)
		if _, err := http.ReadRequest(in); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			_, _ = io.Copy(io.Discard, in)
		}
	})
	c, err := deliver.New(deliver.Config{URL: url, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := once(t, c, deliver.Post{Body: bytes.Repeat([]byte("x"), 8<<20)}); got.Outcome != deliver.Rejected || got.Status != 413 {
		t.Errorf("Attempt = %+v, want rejected by 413", got)
	}
}

// TestTwoAnswersToOnePost: the second is nobody's. The connection ends, so that it
// is not taken for the answer to the next post.
func TestTwoAnswersToOnePost(t *testing.T) {
	var connections atomic.Int64
	url := scripted(t, func(c *net.TCPConn) {
		answer := "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
		first := connections.Add(1) == 1
		if first {
			answer = strings.Repeat("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 2)
		}
		in := bufio.NewReader(c)
		for request(in) {
			_, _ = io.WriteString(c, answer)
		}
	})
	c, err := deliver.New(deliver.Config{URL: url, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := c.Worker(t.Context())
	defer w.Close()
	if got := w.Attempt(deliver.Post{Body: []byte("1")}); got.Outcome != deliver.Accepted {
		t.Fatalf("first = %+v", got)
	}
	if got := w.Attempt(deliver.Post{Body: []byte("2")}); got.Outcome != deliver.Retry || got.Status != 500 {
		t.Errorf("second = %+v, want its own answer", got)
	}
}

func TestNobodyIsThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if got := attempt(t, "http://"+l.Addr().String()); got.Outcome != deliver.Retry {
		t.Errorf("a refused connection = %+v, want retry", got)
	}
	c, err := deliver.New(deliver.Config{URL: "http://sink.example/", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Resolve(&net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no name server") }})
	if got := once(t, c, deliver.Post{Body: []byte("{}")}); got.Outcome != deliver.Retry {
		t.Errorf("a name that cannot be looked up = %+v, want retry", got)
	}
}
