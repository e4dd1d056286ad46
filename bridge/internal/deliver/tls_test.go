package deliver_test

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/apptest"
)

var later = time.Now().Add(time.Hour)

// secure starts a sink with TLS; it counts the posts that reached it.
func secure(t *testing.T, cfg *tls.Config, handler http.HandlerFunc) (url string, posts *atomic.Int64) {
	t.Helper()
	posts = new(atomic.Int64)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		handler(w, r)
	}))
	s.TLS, s.EnableHTTP2 = cfg, true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, posts
}

func accept(http.ResponseWriter, *http.Request) {}

func client(t *testing.T, url string, files deliver.TLSFiles) *deliver.Client {
	t.Helper()
	settings, err := deliver.OpenTLS(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c, err := deliver.New(deliver.Config{URL: url, Timeout: 10 * time.Second, TLS: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestWhoASinkIs: an https sink must prove it, and one that cannot is a fault of
// the sink or of the settings: no event is sent, and none is to blame.
func TestWhoASinkIs(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	ca := file(t, t.TempDir(), "ca.pem", ours.pem)
	for name, c := range map[string]struct {
		server *tls.Config
		files  deliver.TLSFiles
		says   string // "" when it is good
	}{
		"own CA":                   {ours.server("", later), deliver.TLSFiles{CA: ca}, ""},
		"own CA and its own name":  {ours.server("sink.example", later), deliver.TLSFiles{CA: ca, ServerName: "sink.example"}, ""},
		"another name":             {ours.server("other.example", later), deliver.TLSFiles{CA: ca}, "tls.server_name"},
		"another name than is set": {ours.server("other.example", later), deliver.TLSFiles{CA: ca, ServerName: "sink.example"}, "other.example"},
		"expired":                  {ours.server("", time.Now().Add(-time.Minute)), deliver.TLSFiles{CA: ca}, "expired"},
		"another CA":               {theirs.server("", later), deliver.TLSFiles{CA: ca}, "tls.ca_file"},
		"a CA the system lacks":    {ours.server("", later), deliver.TLSFiles{ServerName: "127.0.0.1"}, "tls.ca_file"},
		"an old protocol":          {&tls.Config{Certificates: ours.server("", later).Certificates, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, deliver.TLSFiles{CA: ca}, "protocol version"},
	} {
		t.Run(name, func(t *testing.T) {
			url, posts := secure(t, c.server, accept)
			got := once(t, client(t, url, c.files), deliver.Post{Body: []byte("{}")})
			if c.says == "" {
				if got.Outcome != deliver.Accepted {
					t.Errorf("Attempt = %+v, want accepted", got)
				}
				return
			}
			if got.Outcome != deliver.SinkFault || !strings.Contains(got.Err.Error(), c.says) || posts.Load() != 0 {
				t.Errorf("Attempt = %+v with %d posts, want a sink fault that says %q and none", got, posts.Load(), c.says)
			}
		})
	}
}

func TestAnHTTPSinkIsNoHTTPSSink(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(accept))
	defer s.Close()
	if got := attempt(t, strings.Replace(s.URL, "http:", "https:", 1)); got.Outcome != deliver.SinkFault {
		t.Errorf("Attempt = %+v, want a sink fault", got)
	}
}

// TestAClientCertificate: the sink lets in who shows a certificate of its
// authority, and nobody else.
func TestAClientCertificate(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	cfg := ours.server("", later)
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, ours.pool()
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			cfg := cfg.Clone()
			cfg.MaxVersion = version
			url, posts := secure(t, cfg, accept)
			ca := file(t, t.TempDir(), "ca.pem", ours.pem)
			with := func(a *authority, until time.Time) deliver.TLSFiles {
				dir := t.TempDir()
				cert, key := a.issue("bridge", until)
				return deliver.TLSFiles{CA: ca, Cert: file(t, dir, "cert.pem", cert), Key: file(t, dir, "key.pem", key)}
			}
			if got := once(t, client(t, url, with(ours, later)), deliver.Post{Body: []byte("{}")}); got.Outcome != deliver.Accepted || posts.Load() != 1 {
				t.Fatalf("Attempt = %+v, want accepted", got)
			}
			for why, files := range map[string]deliver.TLSFiles{
				"none": {CA: ca}, "of another authority": with(theirs, later), "expired": with(ours, time.Now().Add(-time.Minute)),
			} {
				got := once(t, client(t, url, files), deliver.Post{Body: []byte("{}")})
				// In TLS 1.3 a sink refuses after the bridge has begun to post, and then
				// closes: what is read of its alert is up to the network.
				if got.Outcome != deliver.SinkFault && (version == tls.VersionTLS12 || got.Outcome != deliver.Retry) {
					t.Errorf("%s: Attempt = %+v, want a sink fault", why, got)
				}
			}
			if posts.Load() != 1 {
				t.Errorf("%d posts got in, want 1", posts.Load())
			}
		})
	}
}

// TestTheFilesChange while connections are open: those of before are not used
// again. In between nothing is posted with a pair that does not belong together.
func TestTheFilesChange(t *testing.T) {
	ours := newAuthority(t, "ours")
	cfg := ours.server("", later)
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, ours.pool()
	var shown atomic.Value
	url, _ := secure(t, cfg, func(_ http.ResponseWriter, r *http.Request) {
		shown.Store(r.TLS.PeerCertificates[0].Subject.CommonName)
	})
	dir := t.TempDir()
	cert, key := ours.issue("before", later)
	files := deliver.TLSFiles{CA: file(t, dir, "ca.pem", ours.pem), Cert: file(t, dir, "cert.pem", cert), Key: file(t, dir, "key.pem", key)}
	c := client(t, url, files)
	post := func() deliver.Result { return once(t, c, deliver.Post{Body: []byte("{}")}) }
	if got := post(); got.Outcome != deliver.Accepted || shown.Load() != "before" {
		t.Fatalf("Attempt = %+v as %v", got, shown.Load())
	}
	cert, key = ours.issue("after", later)
	file(t, dir, "cert.pem", cert)
	apptest.Await(t, "the new certificate noticed", func() bool { return c.Ready() != nil })
	if got := post(); got.Outcome != deliver.SinkFault || !strings.Contains(got.Err.Error(), "tls.cert_file and key_file do not belong together") || shown.Load() != "before" {
		t.Errorf("Attempt between = %+v as %v, want a sink fault", got, shown.Load())
	}
	file(t, dir, "key.pem", key)
	apptest.Await(t, "the new key noticed", func() bool { return c.Ready() == nil })
	if got := post(); got.Outcome != deliver.Accepted || shown.Load() != "after" {
		t.Errorf("Attempt after = %+v as %v, want the new certificate", got, shown.Load())
	}
	file(t, dir, "ca.pem", newAuthority(t, "others").pem)
	apptest.Await(t, "the new authority in force", func() bool { return post().Outcome == deliver.SinkFault })
	replace(t, files.CA, "nothing")
	apptest.Await(t, "the bad file noticed", func() bool { return c.Ready() != nil })
	if got := post(); got.Outcome != deliver.SinkFault || !strings.Contains(got.Err.Error(), "tls.ca_file: "+files.CA+": holds no PEM certificate") {
		t.Errorf("Attempt with a bad file = %+v, want a sink fault that names it", got)
	}
}

func TestBadTLSFilesAreNamed(t *testing.T) {
	ours := newAuthority(t, "ours")
	dir := t.TempDir()
	cert, key := ours.issue("bridge", later)
	_, other := ours.issue("bridge", later)
	good, goodKey, otherKey := file(t, dir, "cert", cert), file(t, dir, "key", key), file(t, dir, "other", other)
	text, encrypted := file(t, dir, "text", "hunter2"), file(t, dir, "encrypted", block("ENCRYPTED PRIVATE KEY", []byte("hunter2")))
	for _, c := range []struct {
		files deliver.TLSFiles
		want  []string
	}{
		{deliver.TLSFiles{}, nil},
		{deliver.TLSFiles{CA: good, Cert: good, Key: goodKey}, nil},
		{deliver.TLSFiles{CA: "/none", Cert: "/none", Key: "/none"}, []string{"ca_file: /none: no such", "cert_file: /none: no such", "key_file: /none: no such"}},
		{deliver.TLSFiles{CA: text, Cert: text, Key: text}, []string{"ca_file: " + text + ": holds no PEM cert", "cert_file: " + text + ": holds no PEM cert", "key_file: " + text + ": holds no PEM private key"}},
		{deliver.TLSFiles{Cert: good, Key: encrypted}, []string{"key_file: " + encrypted + ": is protected by a password"}},
		{deliver.TLSFiles{Cert: good}, []string{"key_file: is missing"}},
		{deliver.TLSFiles{Key: goodKey}, []string{"cert_file: is missing"}},
		{deliver.TLSFiles{Cert: good, Key: otherKey}, []string{"cert_file: cert_file and key_file do not belong together"}},
	} {
		got := c.files.Check()
		if !slices.EqualFunc(got, c.want, strings.HasPrefix) || strings.Contains(strings.Join(got, ""), "hunter2") {
			t.Errorf("%+v: %q, want %q", c.files, got, c.want)
		}
	}
}
