package httpd

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// plainRequest is the header of a request that a front answers by itself: a POST of
// HTTP/1.1 with a small body of known length, in printable ASCII, with one Host, and
// without anything that changes how a message is framed or how long its connection
// lasts. About whatever is not plain, net/http decides.
type plainRequest struct {
	target string
	host   string
	header http.Header // without Host, as in an http.Request
	body   int         // its length
}

// parsePlain reads head, which ends with its empty line, as http.ReadRequest does. It
// reports false when the request is not plain.
func parsePlain(head []byte) (p plainRequest, ok bool) {
	text := string(head) // the parts share it
	line, rest, _ := strings.Cut(text, "\r\n")
	target, isPost := strings.CutPrefix(line, "POST /")
	target, isHTTP := strings.CutSuffix(target, " HTTP/1.1")
	if !isPost || !isHTTP || !printable(target) || strings.Contains(target, " ") {
		return p, false
	}
	p.target = line[len("POST ") : len(line)-len(" HTTP/1.1")]
	values := make([]string, 0, strings.Count(rest, "\n")) // of all lines, one allocation
	p.header = make(http.Header, cap(values))
	for {
		var ended bool
		if line, rest, ended = strings.Cut(rest, "\r\n"); !ended || !printable(line) {
			return p, false
		}
		if line == "" {
			return p, rest == "" && p.host != "" && p.body > 0
		}
		name, value, named := strings.Cut(line, ":")
		if !named || !isToken(name) {
			return p, false
		}
		name, value = textproto.CanonicalMIMEHeaderKey(name), strings.Trim(value, " ")
		switch name {
		case "Host":
			if p.host != "" || !isHost(value) {
				return p, false
			}
			p.host = value
			continue
		case "Content-Length":
			if p.body > 0 || !p.setLength(value) {
				return p, false
			}
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return p, false
			}
		case "Transfer-Encoding", "Expect", "Upgrade", "Trailer", "Te", "Http2-Settings", "Pragma":
			return p, false
		}
		if given := p.header[name]; given != nil {
			p.header[name] = append(given, value)
			continue
		}
		values = append(values, value)
		p.header[name] = values[len(values)-1 : len(values) : len(values)]
	}
}

// setLength takes 1 to smallBody.
func (p *plainRequest) setLength(value string) bool {
	if len(value) > 5 {
		return false
	}
	for _, c := range []byte(value) {
		if c < '0' || c > '9' {
			return false
		}
		p.body = 10*p.body + int(c-'0')
	}
	return p.body > 0 && p.body <= smallBody
}

// request completes a copy of base, which holds the context. The error is of a
// target that is no URL.
func (p *plainRequest) request(base *http.Request) (*http.Request, error) {
	u, err := url.ParseRequestURI(p.target)
	if err != nil {
		return nil, err
	}
	r := new(http.Request)
	*r = *base
	r.Method, r.URL, r.RequestURI = http.MethodPost, u, p.target
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	r.Header, r.Host, r.ContentLength = p.header, p.host, int64(p.body)
	return r, nil
}

var crlf = []byte("\r\n")

func printable(line string) bool {
	for _, c := range []byte(line) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// isHost takes names and addresses with or without a port.
func isHost(value string) bool {
	for _, c := range []byte(value) {
		if !alphanumeric(c) && strings.IndexByte("-._:[]", c) < 0 {
			return false
		}
	}
	return value != ""
}

// isToken takes the characters that the names of headers have in practice.
func isToken(name string) bool {
	for _, c := range []byte(name) {
		if !alphanumeric(c) && c != '-' {
			return false
		}
	}
	return name != ""
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
