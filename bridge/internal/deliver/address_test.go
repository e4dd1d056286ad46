package deliver_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

var refused = []string{
	"169.254.169.254", "169.254.170.2", "169.254.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "fe80::1", "fe80::1%eth0", "febf::1",
	"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "168.63.129.16", "100.100.100.200", "192.0.0.192",
	"64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
}

func TestWhereNoSinkMayBe(t *testing.T) {
	for _, text := range refused {
		addr := netip.MustParseAddr(text)
		var err *deliver.RefusedError
		if !errors.As(deliver.CheckAddr(addr, nil), &err) {
			t.Errorf("%s is taken", text)
		}
		if err := deliver.CheckAddr(addr, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}); err != nil {
			t.Errorf("%s is refused although it is allowed: %v", text, err)
		}
	}
	for _, text := range []string{"127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1", "64:ff9b::808:808", "169.253.255.255", "169.255.0.0", "fec0::1"} {
		if err := deliver.CheckAddr(netip.MustParseAddr(text), nil); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The check is made at the connection, so that no spelling of an address and no
// name gets around it.
func TestAMetadataAddressIsNotDialed(t *testing.T) {
	for _, host := range []string{"169.254.169.254", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[fe80::1%25lo]", "[fd00:ec2::254]"} {
		got := attempt(t, "http://"+host+"/latest/meta-data/")
		var err *deliver.RefusedError
		if got.Outcome != deliver.SinkFault || !errors.As(got.Err, &err) || !strings.Contains(got.Err.Error(), "list it in SINK_ALLOW") {
			t.Errorf("%s = %+v, want that it is refused", host, got)
		}
	}
}

// A name can lead anywhere, and somewhere else from one moment to the next. It is
// the address that is wrong, not the event.
func TestANameThatLeadsToAMetadataAddressIsNotDialed(t *testing.T) {
	for _, addr := range []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("100.100.100.200")} {
		c, err := deliver.New(deliver.Config{URL: "http://sink.example/", Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		c.Resolve(resolver(t, addr))
		got := once(t, c, deliver.Post{Body: []byte("{}")})
		if got.Outcome != deliver.SinkFault || !strings.Contains(got.Err.Error(), "sink.example") ||
			!strings.Contains(got.Err.Error(), addr.String()) || !strings.Contains(got.Err.Error(), "SINK_ALLOW") {
			t.Errorf("a name for %s = %+v, want a sink fault that names it and SINK_ALLOW", addr, got)
		}
		c.Close()
	}
}

// resolver answers every question for an IPv4 address with addr.
func resolver(t *testing.T, addr netip.Addr) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = server.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			end := 12 + bytes.IndexByte(buf[12:n], 0) + 5 // of the question: a name, its type and class
			answer := slices.Clone(buf[:end])
			answer[2], answer[3] = 0x81, 0x80 // an answer, without an error
			copy(answer[6:12], make([]byte, 6))
			if buf[end-3] == 1 { // A
				ip := addr.As4()
				answer[7] = 1
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				answer = append(answer, ip[:]...)
			}
			_, _ = server.WriteTo(answer, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

func TestAnAllowedAddressIsDialed(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	if got := attempt(t, s.URL); got.Outcome != deliver.Accepted {
		t.Errorf("loopback = %+v, want accepted", got)
	}
	c, err := deliver.New(deliver.Config{URL: "http://169.254.169.254:1/", Timeout: time.Millisecond, Allow: []netip.Prefix{netip.MustParsePrefix("169.254.169.254/32")}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refused *deliver.RefusedError
	if got := once(t, c, deliver.Post{}); errors.As(got.Err, &refused) {
		t.Errorf("an allowed address was refused: %v", got.Err)
	}
}

func TestShown(t *testing.T) {
	for address, want := range map[string]string{
		"http://localhost:8002/":                      "http://localhost:8002/",
		"https://user:hunter2@sink/a%2Fb?t=hunter2#x": "https://sink/a%2Fb",
		"http://sink?":                                "http://sink",
		"http://user:hunter2@[::1":                    "",
	} {
		if got := deliver.Shown(address); got != want {
			t.Errorf("Shown(%q) = %q, want %q", address, got, want)
		}
	}
	if _, err := deliver.New(deliver.Config{URL: "http://user:hunter2@[::1"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("New = %v, want an error without the address", err)
	}
}
