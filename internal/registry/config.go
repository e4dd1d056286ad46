package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/taskwire/taskwire/internal/env"
)

// Config is the address of a registry and how to authenticate to it.
type Config struct {
	URL          string // "" for no registry
	Username     string // "" for no basic authentication
	PasswordFile string // read for each request; a line feed at its end is not part of the password
	CAFile       string // PEM, read for each connection; the system's roots when empty
}

// ConfigFromEnv reads the SCHEMA_REGISTRY_ variables and reports whether
// EVENT_ENCODING is avro, which needs a registry. Mistakes are recorded in r.
func ConfigFromEnv(r *env.Reader) (cfg Config, avro bool) {
	avro = r.Enum("EVENT_ENCODING", "json", "json", "avro") == "avro"
	if r.String("SCHEMA_REGISTRY_URL", "") != "" {
		cfg.URL = strings.TrimRight(r.URL("SCHEMA_REGISTRY_URL", ""), "/")
	}
	cfg.Username = r.String("SCHEMA_REGISTRY_USERNAME", "")
	cfg.PasswordFile, cfg.CAFile = r.File("SCHEMA_REGISTRY_PASSWORD_FILE"), r.File("SCHEMA_REGISTRY_CA_FILE")
	if cfg.URL == "" {
		if avro {
			r.Fail("SCHEMA_REGISTRY_URL", "is missing: EVENT_ENCODING is avro")
		}
		for name, value := range map[string]string{"USERNAME": cfg.Username, "PASSWORD_FILE": cfg.PasswordFile, "CA_FILE": cfg.CAFile} {
			if value != "" {
				r.Fail("SCHEMA_REGISTRY_"+name, "has no effect without SCHEMA_REGISTRY_URL")
			}
		}
		return cfg, avro
	}
	cfg.check(r)
	return cfg, avro
}

func (cfg Config) check(r *env.Reader) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return // r.URL has said so
	}
	if u.RawQuery != "" {
		r.Fail("SCHEMA_REGISTRY_URL", "must not have a query")
	}
	secure := u.Scheme == "https"
	if cfg.CAFile != "" {
		if !secure {
			r.Fail("SCHEMA_REGISTRY_CA_FILE", "has no effect: SCHEMA_REGISTRY_URL is not https")
		} else if _, err := readRoots(cfg.CAFile); err != nil {
			r.Fail("SCHEMA_REGISTRY_CA_FILE", "%v", err)
		}
	}
	switch {
	case cfg.Username == "" && cfg.PasswordFile != "":
		r.Fail("SCHEMA_REGISTRY_USERNAME", "is missing: SCHEMA_REGISTRY_PASSWORD_FILE is set")
	case cfg.Username != "" && cfg.PasswordFile == "":
		r.Fail("SCHEMA_REGISTRY_PASSWORD_FILE", "is missing: SCHEMA_REGISTRY_USERNAME is set")
	case cfg.Username != "":
		if _, err := cfg.password(); err != nil {
			r.Fail("SCHEMA_REGISTRY_PASSWORD_FILE", "%v", err)
		}
		if !secure && !loopback(u.Hostname()) {
			r.Fail("SCHEMA_REGISTRY_URL", "the password would be sent in clear text; use https")
		}
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (cfg Config) password() (string, error) {
	text, err := os.ReadFile(cfg.PasswordFile)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return "", errors.New("is empty, want the password")
	}
	return password, nil
}

func (cfg Config) tls(address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if cfg.CAFile != "" {
		if settings.RootCAs, err = readRoots(cfg.CAFile); err != nil {
			return nil, fmt.Errorf("read SCHEMA_REGISTRY_CA_FILE: %w", err)
		}
	}
	return settings, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("contains no PEM certificate")
	}
	return pool, nil
}
