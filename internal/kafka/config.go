package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/failpoint"
)

// Config holds the address of Kafka and how to authenticate to it.
type Config struct {
	Brokers      []string // host:port, any of them
	Topic        string
	ClientID     string // the service's name, for the brokers' logs and quotas
	TLS          TLS
	SASL         SASL
	CreateTopics bool // create missing topics
	Partitions   int  // of a topic that is created
	// Dial replaces the network in tests; TLS runs over the connection it returns.
	Dial DialFunc
}

// TLS is off unless Enabled. The files are read for each connection, so that a
// renewed certificate needs no restart.
type TLS struct {
	Enabled           bool
	CAFile            string // PEM; the system's roots when empty
	CertFile, KeyFile string // PEM; both or none
}

// SASL is off when Mechanism is empty. The password is read for each connection.
type SASL struct {
	Mechanism    string // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	Username     string
	PasswordFile string // a line feed at its end is not part of the password
}

// legalTopic matches the names that brokers accept, apart from . and .., which they refuse.
var legalTopic = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// ConfigFromEnv reads the KAFKA_ variables. Mistakes and contradictions are
// recorded in r.
func ConfigFromEnv(r *env.Reader, clientID string) Config {
	cfg := Config{
		Brokers:      r.HostPorts("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
		Topic:        r.String("KAFKA_TOPIC", "task-events"),
		ClientID:     clientID,
		TLS:          tlsFromEnv(r),
		SASL:         saslFromEnv(r),
		CreateTopics: r.Bool("KAFKA_CREATE_TOPICS", false),
		Partitions:   r.Int("KAFKA_TOPIC_PARTITIONS", 1, 1, 10000),
	}
	if err := CheckTopic(cfg.Topic); err != nil {
		r.Fail("KAFKA_TOPIC", "%v", err)
	}
	// SCRAM never sends the password, PLAIN nothing else.
	if insecure := r.Bool("KAFKA_SASL_INSECURE", false); cfg.SASL.Mechanism == "PLAIN" && !cfg.TLS.Enabled && !insecure {
		r.Fail("KAFKA_SASL_MECHANISM", "PLAIN sends the password in clear text; set KAFKA_TLS=true, or KAFKA_SASL_INSECURE=true if the network is trusted")
	}
	return cfg
}

// CheckTopic returns an error unless name can be the name of a topic.
func CheckTopic(name string) error {
	if name == "." || name == ".." || !legalTopic.MatchString(name) {
		return errors.New("want a topic name of 1 to 249 letters, digits, dots, underscores and dashes")
	}
	return nil
}

func tlsFromEnv(r *env.Reader) TLS {
	cfg := TLS{
		Enabled:  r.Bool("KAFKA_TLS", false),
		CAFile:   r.File("KAFKA_TLS_CA_FILE"),
		CertFile: r.File("KAFKA_TLS_CERT_FILE"),
		KeyFile:  r.File("KAFKA_TLS_KEY_FILE"),
	}
	if !cfg.Enabled {
		for _, f := range [][2]string{{"KAFKA_TLS_CA_FILE", cfg.CAFile}, {"KAFKA_TLS_CERT_FILE", cfg.CertFile}, {"KAFKA_TLS_KEY_FILE", cfg.KeyFile}} {
			if f[1] != "" {
				r.Fail(f[0], "has no effect without KAFKA_TLS=true")
			}
		}
		return cfg
	}
	if readable(cfg.CAFile) {
		if _, err := readRoots(cfg.CAFile); err != nil {
			r.Fail("KAFKA_TLS_CA_FILE", "%v", err)
		}
	}
	switch {
	case cfg.CertFile != "" && cfg.KeyFile == "":
		r.Fail("KAFKA_TLS_KEY_FILE", "is missing: KAFKA_TLS_CERT_FILE is set")
	case cfg.CertFile == "" && cfg.KeyFile != "":
		r.Fail("KAFKA_TLS_CERT_FILE", "is missing: KAFKA_TLS_KEY_FILE is set")
	case readable(cfg.CertFile) && readable(cfg.KeyFile):
		if _, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile); err != nil {
			r.Fail("KAFKA_TLS_CERT_FILE", "does not match KAFKA_TLS_KEY_FILE: %v", err)
		}
	}
	return cfg
}

func saslFromEnv(r *env.Reader) SASL {
	cfg := SASL{
		Mechanism:    r.String("KAFKA_SASL_MECHANISM", ""),
		Username:     r.String("KAFKA_SASL_USERNAME", ""),
		PasswordFile: r.File("KAFKA_SASL_PASSWORD_FILE"),
	}
	switch cfg.Mechanism {
	case "":
		for _, f := range [][2]string{{"KAFKA_SASL_USERNAME", cfg.Username}, {"KAFKA_SASL_PASSWORD_FILE", cfg.PasswordFile}} {
			if f[1] != "" {
				r.Fail(f[0], "has no effect without KAFKA_SASL_MECHANISM")
			}
		}
		return cfg
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
	default:
		r.Fail("KAFKA_SASL_MECHANISM", "want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, have %q", cfg.Mechanism)
		return cfg
	}
	if cfg.Username == "" {
		r.Fail("KAFKA_SASL_USERNAME", "is missing: KAFKA_SASL_MECHANISM is set")
	}
	if cfg.PasswordFile == "" {
		r.Fail("KAFKA_SASL_PASSWORD_FILE", "is missing: KAFKA_SASL_MECHANISM is set")
	} else if readable(cfg.PasswordFile) {
		if _, err := newLogin(cfg); err != nil {
			r.Fail("KAFKA_SASL_PASSWORD_FILE", "%v", err)
		}
	}
	return cfg
}

// readable keeps an unreadable file from being reported twice: env.Reader.File has reported it already.
func readable(path string) bool {
	st, err := os.Stat(path)
	if err != nil || st.IsDir() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

func readRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s contains no PEM certificate", path)
	}
	return pool, nil
}

// client returns the settings of one connection, from the current content of the files.
func (t TLS) client(address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t.CAFile != "" {
		if cfg.RootCAs, err = readRoots(t.CAFile); err != nil {
			return nil, err
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// dialer returns a function that opens connections, TLS handshake included: the
// Transport would keep using the certificates it was created with.
func (cfg Config) dialer() (DialFunc, error) {
	dial := cfg.Dial
	if dial == nil {
		dial = failpoint.Kafka((&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext)
	}
	dial = explained(dial, cfg.Brokers)
	if !cfg.TLS.Enabled {
		return dial, nil
	}
	if _, err := cfg.TLS.client("localhost:0"); err != nil {
		return nil, fmt.Errorf("read the KAFKA_TLS files: %w", err)
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		settings, err := cfg.TLS.client(address)
		if err != nil {
			return nil, fmt.Errorf("read the KAFKA_TLS files: %w", err)
		}
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(raw, settings)
		if err := conn.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("TLS handshake with %s: %w", address, err), raw.Close())
		}
		return conn, nil
	}, nil
}

// login is a SASL mechanism that reads its password when a connection opens.
type login struct{ cfg SASL }

// newLogin fails when the password cannot be used, so that a wrong setting is
// reported at the start and not at the first connection.
func newLogin(cfg SASL) (sasl.Mechanism, error) {
	l := login{cfg}
	if _, err := l.mechanism(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l login) Name() string { return l.cfg.Mechanism }

func (l login) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	m, err := l.mechanism()
	if err != nil {
		return nil, nil, err
	}
	return m.Start(ctx)
}

func (l login) mechanism() (sasl.Mechanism, error) {
	text, err := os.ReadFile(l.cfg.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("read KAFKA_SASL_PASSWORD_FILE: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return nil, fmt.Errorf("%s is empty, want the password", l.cfg.PasswordFile)
	}
	switch l.cfg.Mechanism {
	case "PLAIN":
		return plain.Mechanism{Username: l.cfg.Username, Password: password}, nil
	case "SCRAM-SHA-256":
		return scram.Mechanism(scram.SHA256, l.cfg.Username, password)
	case "SCRAM-SHA-512":
		return scram.Mechanism(scram.SHA512, l.cfg.Username, password)
	}
	return nil, fmt.Errorf("unknown SASL mechanism %q", l.cfg.Mechanism)
}
