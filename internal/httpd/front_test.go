package httpd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// echo answers in the ways that handlers have, and says what it was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	say := func() {
		fmt.Fprintf(w, "%s %s %s %s %q %v %d %v %v\n", r.Method, r.RequestURI, r.URL.Path, r.Host, body, err, r.ContentLength, r.TransferEncoding, r.Close)
		for _, name := range slices.Sorted(mapsKeys(r.Header)) {
			fmt.Fprintf(w, "%s: %q\n", name, r.Header[name])
		}
	}
	switch r.URL.Path {
	case "/created":
		w.Header().Set("Location", "/tasks/1\r\nX: y") // a line break must not get out
		w.WriteHeader(http.StatusCreated)
		w.WriteHeader(http.StatusOK)
		say()
	case "/nothing":
	case "/bodiless":
		w.WriteHeader(http.StatusNoContent)
		if _, err := io.WriteString(w, "x"); err == nil {
			panic("wrote a body to 204")
		}
	case "/json":
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	case "/large":
		for range 3000 {
			say()
		}
	case "/flushed":
		say()
		_ = http.NewResponseController(w).Flush()
		say()
	case "/closes":
		w.Header().Set("Connection", "close")
		say()
	case "/cut":
		say()
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "/panics":
		panic("on purpose")
	default:
		say()
	}
}

// mapsKeys keeps the order of a test independent of that of a map.
func mapsKeys(h http.Header) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range h {
			if !yield(name) {
				return
			}
		}
	}
}

// conversation sends bytes, piece by piece, and returns what comes back until the
// server closes the connection, with dates removed.
func conversation(t testing.TB, addr net.Addr, pieces ...string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, p := range pieces {
		if i > 0 {
			time.Sleep(5 * time.Millisecond) // for a packet of its own; the answer does not depend on it
		}
		if _, err := io.WriteString(c, p); err != nil {
			break // the server has answered and closed
		}
	}
	_ = c.(*net.TCPConn).CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return answers(c)
}

// answers are those on a connection: status, headers, body, and how it ends.
func answers(c io.Reader) string {
	var out strings.Builder
	in := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodPost}) //nolint:bodyclose // the connection is closed
		if err != nil {
			if _, err := in.Peek(1); err != nil {
				return out.String() + "end"
			}
			return out.String() + err.Error()
		}
		body, err := io.ReadAll(resp.Body)
		resp.Header.Del("Date")
		resp.Header.Del("Content-Length") // net/http sends fewer answers with one
		fmt.Fprintf(&out, "%s %v %q %v %q %v\n", resp.Status, resp.Header, body, resp.Close, resp.Trailer, err)
	}
}

// pair is a front and a server of net/http with the same handler.
func pair(t testing.TB) (fronted, plainHTTP net.Addr) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	doors := [2]net.Listener{}
	for i := range doors {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		doors[i] = newDoor(l, 64, 0, log)
	}
	h := http.HandlerFunc(echo)
	f, s := newFront(doors[0], h, server(h, log)), server(h, log)
	ended := make(chan error, 2)
	go func() { ended <- f.serve() }()
	go func() { ended <- s.Serve(doors[1]) }()
	t.Cleanup(func() {
		if err := f.shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-ended
		<-ended
	})
	return doors[0].Addr(), doors[1].Addr()
}

func post(path, more, body string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\n" + more + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

// What follows a request that is refused is left out: a server that closes with
// bytes unread may cut its own answer off.
var talks = map[string][]string{
	"one":                 {post("/", "", "a")},
	"several":             {post("/a", "", "a"), post("/created", "X-One: 1\r\nx-one: 2\r\n", "bb"), post("/nothing", "", "c"), post("/bodiless", "", "d"), post("/json", "", "e")},
	"pipelined":           {post("/a", "", "a") + post("/b", "", "b") + post("/nothing", "", "c")},
	"in pieces":           {"P", "OST / HTT", "P/1.1\r\nHo", "st: localhost\r\nContent-Length: 5\r\n\r", "\nab", "cde" + post("/next", "", "x")},
	"a query":             {post("/a?b=c&d=%20", "Content-Type: application/json\r\nAccept-Encoding: gzip\r\nUser-Agent: x\r\n", "{}")},
	"keep-alive":          {post("/", "Connection: Keep-Alive\r\n", "a"), post("/b", "", "b")},
	"close":               {post("/", "Connection: close\r\n", "a"), post("/b", "", "b")},
	"the handler closes":  {post("/closes", "", "a"), post("/b", "", "b")},
	"get between":         {post("/", "", "a"), "GET /b HTTP/1.1\r\nHost: localhost\r\n\r\n", post("/c", "", "c")},
	"large answer":        {post("/large", "", "a"), post("/b", "", "b")},
	"flushed answer":      {post("/flushed", "", "a"), post("/b", "", "b")},
	"cut answer":          {post("/cut", "", "a"), post("/b", "", "b")},
	"panic":               {post("/a", "", "a"), post("/panics", "", "a"), post("/b", "", "b")},
	"chunked":             {"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", post("/b", "", "b")},
	"chunked with length": {post("/", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), post("/b", "", "b")},
	"two lengths":         {post("/", "Content-Length: 2\r\n", "a")},
	"equal lengths":       {post("/", "Content-Length: 1\r\n", "a"), post("/b", "", "b")},
	"signed length":       {"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\na"},
	"huge length":         {"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\na"},
	"no length":           {"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + post("/b", "", "b")},
	"empty body":          {post("/", "", ""), post("/b", "", "b")},
	"body too large":      {post("/", "", strings.Repeat("x", smallBody+1)), post("/b", "", "b")},
	"largest plain body":  {post("/", "", strings.Repeat("x", smallBody)), post("/b", "", "b")},
	"long header":         {post("/", "X: "+strings.Repeat("x", headBytes)+"\r\n", "a"), post("/b", "", "b")},
	"expect":              {post("/", "Expect: 100-continue\r\n", "a"), post("/b", "", "b")},
	"upgrade":             {post("/", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "a"), post("/b", "", "b")},
	"no host":             {"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\na"},
	"two hosts":           {post("/", "Host: other\r\n", "a")},
	"bad host":            {"POST / HTTP/1.1\r\nHost: a b\r\nContent-Length: 1\r\n\r\na"},
	"HTTP/1.0":            {"POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na"},
	"line feeds only":     {"POST / HTTP/1.1\nHost: localhost\nContent-Length: 1\n\na"},
	"a folded line":       {post("/", "X: a\r\n b\r\n", "a")},
	"space before colon":  {post("/", "X : a\r\n", "a")},
	"bad path":            {post("/%zz", "", "a")},
	"absolute path":       {post("http://localhost/x", "", "a")},
	"two slashes":         {post("//x/y", "", "a")},
	"no path":             {post("*", "", "a")},
	"other method":        {strings.Replace(post("/", "", "a"), "POST", "PUT", 1)},
	"lower-case method":   {strings.Replace(post("/", "", "a"), "POST", "post", 1)},
	"no HTTP":             {"hello\r\n\r\n"},
	"control character":   {post("/", "X: a\x01b\r\n", "a")},
	"latin1":              {post("/", "X: \xe4\r\n", "a")},
	"half a header":       {"POST / HTTP/1.1\r\nHost: loc"},
	"half a body":         {"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc"},
	"nothing":             {""},
}

// Whatever a client sends, a front answers as net/http does; what is cut off before
// the body is whole gets no answer from a front.
func TestAFrontAnswersAsNetHTTP(t *testing.T) {
	fronted, plainHTTP := pair(t)
	for name, pieces := range talks {
		t.Run(name, func(t *testing.T) {
			got, want := conversation(t, fronted, pieces...), conversation(t, plainHTTP, pieces...)
			if name == "half a body" {
				want = "end"
			}
			if got != want {
				t.Errorf("a front answers\n%.2000s\nand net/http\n%.2000s", got, want)
			}
		})
	}
}

// What is plain is what net/http understands, and has nothing that its server would
// refuse.
func FuzzPlain(f *testing.F) {
	for _, pieces := range talks {
		head, _, _ := strings.Cut(strings.Join(pieces, ""), "\r\n\r\n")
		f.Add([]byte(head + "\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		p, ok := parsePlain(head)
		if !ok {
			return
		}
		if !bytes.HasSuffix(head, []byte("\r\n\r\n")) || bytes.Count(head, []byte("\r\n\r\n")) != 1 {
			t.Fatalf("%q does not end with its empty line", head)
		}
		r, err := p.request(new(http.Request))
		want, wantErr := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil {
			return // the front gives it to net/http
		}
		if wantErr != nil {
			t.Fatalf("%q is plain, and net/http says %v", head, wantErr)
		}
		if want.Close || len(want.TransferEncoding) > 0 || len(want.Trailer) > 0 || r.ContentLength < 1 || r.ContentLength > smallBody {
			t.Fatalf("%q: %+v", head, want)
		}
		want.Body = nil
		if !reflect.DeepEqual(r, want) {
			t.Fatalf("%q is\n%+v\nand for net/http\n%+v", head, r, want)
		}
	})
}

// A stop answers the request that is in progress and closes the connections that wait.
func TestAFrontStops(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	entered, release := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			close(entered)
			<-release
		}
		_, _ = io.WriteString(w, "done")
	})
	f := newFront(newDoor(l, 64, 0, log), h, server(h, log))
	served := make(chan error, 1)
	go func() { served <- f.serve() }()
	dial := func(send string) net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, send)
		return c
	}
	idle := dial(post("/", "", "a"))
	if _, err := http.ReadResponse(bufio.NewReader(idle), nil); err != nil { //nolint:bodyclose // the connection is closed
		t.Fatal(err)
	}
	silent, begun := dial(""), dial("POST / HT")
	busy := dial(post("/wait", "", "a") + post("/never", "", "b"))
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- f.shutdown(context.Background()) }()
	for _, c := range []net.Conn{idle, silent, begun} {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, _ := io.Copy(io.Discard, c); n > 4 { // the body that was not read above
			t.Errorf("%d bytes after the stop", n)
		}
	}
	close(release)
	if got := answers(busy); strings.Count(got, "200 OK") != 1 || !strings.Contains(got, "true") {
		t.Errorf("the request in progress was answered with %s", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if err := <-served; err != http.ErrServerClosed { //nolint:errorlint // the value itself
		t.Error(err)
	}
}

// A small post costs no more than this from its first byte to its answer, the
// handler's own left out: every allocation here is paid for each event and change.
func TestAPostStaysWithinItsAllocations(t *testing.T) { // not parallel: it counts those of the process
	const budget = 13
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		w.WriteHeader(http.StatusCreated)
	})
	f := newFront(newDoor(l, 64, 0, log), h, server(h, log))
	served := make(chan error, 1)
	go func() { served <- f.serve() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request, answer := []byte(post("/tasks", "Content-Type: application/json\r\nUser-Agent: x\r\nAccept-Encoding: gzip\r\n", "{}")), make([]byte, 4096)
	got := testing.AllocsPerRun(200, func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 201 ")) {
			t.Fatalf("%q: %v", answer[:n], err)
		}
	})
	t.Logf("%.0f allocations", got)
	if got > budget {
		t.Errorf("%.0f allocations for a post, the budget is %d", got, budget)
	}
	if err := f.shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	<-served
}
