package deliver

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/taskwire/taskwire/internal/secretfile"
)

// TLSFiles is how a sink is known and the bridge is known to it; "" for what is
// left to the system. All files are PEM.
type TLSFiles struct {
	CA         string // certificates that sign the sink's, instead of the system's roots
	Cert, Key  string // what the bridge shows; both or none
	ServerName string // that the sink's certificate must have, instead of the host of its address
}

// Check names every mistake, each with its key.
func (f TLSFiles) Check() []string {
	var wrong []string
	report := func(key string, err error) {
		if err != nil {
			wrong = append(wrong, key+": "+err.Error())
		}
	}
	if f.CA != "" {
		report("ca_file", secretfile.Check(f.CA, parseRoots))
	}
	switch {
	case f.Cert != "" && f.Key == "":
		report("key_file", errors.New("is missing: cert_file is set"))
	case f.Cert == "" && f.Key != "":
		report("cert_file", errors.New("is missing: key_file is set"))
	case f.Cert != "":
		cert, key := secretfile.Check(f.Cert, parseCert), secretfile.Check(f.Key, parseKey)
		report("cert_file", cert)
		report("key_file", key)
		if cert == nil && key == nil {
			_, err := OpenTLS(f, slog.New(slog.DiscardHandler))
			report("cert_file", err)
		}
	}
	return wrong
}

// TLS is the settings of connections to one sink. Its files are read again when
// they change.
type TLS struct {
	ca         *secretfile.File[*x509.CertPool] // nil: the system's
	cert, key  *secretfile.File[*pemText]       // nil: none
	serverName string

	mu     sync.Mutex
	made   *tls.Config // guarded by mu
	madeOf contents    // guarded by mu: what made is made of
}

// contents is what the files hold. Each read gives new pointers.
type contents struct {
	ca        *x509.CertPool
	cert, key *pemText
}

type pemText struct{ text []byte }

// OpenTLS reads the files.
func OpenTLS(f TLSFiles, log *slog.Logger) (t *TLS, err error) {
	t = &TLS{serverName: f.ServerName}
	if f.CA != "" {
		if t.ca, err = secretfile.OpenPublic(f.CA, parseRoots, log); err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
	}
	if f.Cert != "" {
		if t.cert, err = secretfile.OpenPublic(f.Cert, parseCert, log); err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		if t.key, err = secretfile.Open(f.Key, parseKey, log); err != nil {
			return nil, fmt.Errorf("key_file: %w", err)
		}
	}
	_, err = t.Config()
	return t, err
}

// Config returns the settings for new connections: the same pointer until a file
// changes. With an error there are none, and nothing may be sent.
func (t *TLS) Config() (*tls.Config, error) {
	now, err := t.load()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.made != nil && t.madeOf == now {
		return t.made, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.serverName, RootCAs: now.ca}
	if now.cert != nil {
		pair, err := tls.X509KeyPair(now.cert.text, now.key.text)
		if err != nil {
			return nil, fmt.Errorf("cert_file and key_file do not belong together: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	t.made, t.madeOf = cfg, now
	return cfg, nil
}

func (t *TLS) load() (now contents, err error) {
	if t.ca != nil {
		if now.ca, err = t.ca.Load(); err != nil {
			return now, fmt.Errorf("ca_file: %w", err)
		}
	}
	if t.cert != nil {
		if now.cert, err = t.cert.Load(); err != nil {
			return now, fmt.Errorf("cert_file: %w", err)
		}
		if now.key, err = t.key.Load(); err != nil {
			return now, fmt.Errorf("key_file: %w", err)
		}
	}
	return now, nil
}

// Err reports why there are no settings now.
func (t *TLS) Err() error {
	_, err := t.Config()
	return err
}

func parseRoots(content []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, errors.New("holds no PEM certificate")
	}
	return pool, nil
}

func parseCert(content []byte) (*pemText, error) {
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("holds no PEM certificate")
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return nil, errors.New("its first certificate cannot be read")
	}
	return &pemText{content}, nil
}

func parseKey(content []byte) (*pemText, error) {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			return &pemText{content}, nil
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("is protected by a password; want a private key without one")
		}
	}
	return nil, errors.New("holds no PEM private key")
}
