package httpd

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"
)

// reply is the http.ResponseWriter of a front: it collects an answer and sends it in
// one write. It is used for one answer after the other.
type reply struct {
	conn   *frontConn
	header http.Header
	status int // 0 until WriteHeader
	body   bytes.Buffer
	out    bytes.Buffer
	chunks io.WriteCloser // after Flush
	err    error
}

func (w *reply) reset(c *frontConn) {
	w.conn, w.status, w.chunks, w.err = c, 0, nil, nil
	w.header = make(http.Header, 8) // a handler may have kept the one before
	w.body.Reset()
	w.out.Reset()
}

// Header is sent with the answer.
func (w *reply) Header() http.Header { return w.header }

// WriteHeader counts once; the informational statuses are not sent.
func (w *reply) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
}

// Write collects.
func (w *reply) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.bodiless() {
		return 0, http.ErrBodyNotAllowed
	}
	if w.body.Len()+len(p) > answerBytes {
		w.Flush()
	}
	if w.err != nil {
		return 0, w.err
	}
	return w.body.Write(p)
}

// Flush sends what there is. An answer that is flushed comes in chunks, so that a
// part of it is never taken for the whole.
func (w *reply) Flush() {
	w.WriteHeader(http.StatusOK)
	if w.bodiless() {
		return
	}
	if w.chunks == nil {
		w.header["Transfer-Encoding"] = []string{"chunked"}
		w.writeHead()
		w.chunks = httputil.NewChunkedWriter(&w.out)
	}
	if w.body.Len() > 0 {
		_, _ = w.chunks.Write(w.body.Bytes()) // to memory
		w.body.Reset()
	}
	w.send()
}

// finish sends the rest; false ends the connection.
func (w *reply) finish() bool {
	w.WriteHeader(http.StatusOK)
	if w.chunks != nil {
		w.Flush()
		_ = w.chunks.Close()
		_, _ = w.out.Write(crlf) // no trailers
		w.send()
		return w.err == nil && !w.closes()
	}
	if !w.bodiless() {
		w.header["Content-Length"] = []string{strconv.Itoa(w.body.Len())}
	}
	w.writeHead()
	_, _ = w.out.Write(w.body.Bytes())
	w.send()
	return w.err == nil && !w.closes()
}

func (w *reply) bodiless() bool {
	return w.status == http.StatusNoContent || w.status == http.StatusNotModified
}

func (w *reply) closes() bool { return w.header.Get("Connection") == "close" }

// writeHead adds what net/http adds.
func (w *reply) writeHead() {
	if _, ok := w.header["Content-Type"]; !ok && w.body.Len() > 0 {
		w.header["Content-Type"] = []string{http.DetectContentType(w.body.Bytes())}
	}
	if w.conn.front.stopping.Load() {
		w.header["Connection"] = []string{"close"}
	}
	b := w.out.AvailableBuffer()
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(w.status), 10)
	b = append(append(b, ' '), http.StatusText(w.status)...)
	b = append(b, "\r\nDate: "...)
	b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	_, _ = w.out.Write(append(b, "\r\n"...))
	_ = w.header.Write(&w.out)
	_, _ = w.out.Write(crlf)
}

func (w *reply) send() {
	if w.err == nil {
		w.conn.writeWithin(writeTime)
		_, w.err = w.conn.Write(w.out.Bytes())
	}
	w.out.Reset()
}
