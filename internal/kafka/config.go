// Package kafka is what the services share of Kafka: the settings of a
// connection, topics, and an idempotent producer. It stands on segmentio/kafka-go's
// Client and Transport and uses neither its Reader nor its Writer.
package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/taskwire/taskwire/internal/env"
)

// DialFunc opens a connection to a broker.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// Config is how to reach a cluster.
type Config struct {
	Brokers      []string // host:port, any of them will do; KAFKA_BOOTSTRAP_SERVERS
	Topic        string   // KAFKA_TOPIC
	ClientID     string   // shown in the broker's logs and metrics
	TLS          *tls.Config
	SASL         sasl.Mechanism
	CreateTopics bool     // KAFKA_CREATE_TOPICS
	Partitions   int      // of topics it creates; KAFKA_TOPIC_PARTITIONS
	Dial         DialFunc // nil for the network
}

// ConfigFromEnv reads the KAFKA_ variables; secrets come from files.
func ConfigFromEnv(r *env.Reader, clientID string) Config {
	return Config{
		Brokers:      r.HostPorts("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
		Topic:        topicName(r, "KAFKA_TOPIC", "task-events"),
		ClientID:     clientID,
		TLS:          tlsFromEnv(r),
		SASL:         saslFromEnv(r),
		CreateTopics: r.Bool("KAFKA_CREATE_TOPICS", false),
		Partitions:   r.Int("KAFKA_TOPIC_PARTITIONS", 1, 1, 10_000),
	}
}

func topicName(r *env.Reader, key, def string) string {
	name := r.String(key, def)
	if err := CheckTopic(name); err != nil {
		r.Fail(key, "%v", err)
	}
	return name
}

// CheckTopic says what keeps name from being a topic's.
func CheckTopic(name string) error {
	legal := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
	}
	if name == "" || len(name) > 249 || name == "." || name == ".." || strings.ContainsFunc(name, func(c rune) bool { return !legal(c) }) {
		return errors.New("want a topic name of 1 to 249 letters, digits, dots, underscores and dashes")
	}
	return nil
}

func tlsFromEnv(r *env.Reader) *tls.Config {
	on := r.Bool("KAFKA_TLS", false)
	ca, cert, key := r.File("KAFKA_TLS_CA_FILE"), r.File("KAFKA_TLS_CERT_FILE"), r.File("KAFKA_TLS_KEY_FILE")
	if (cert == "") != (key == "") {
		r.Fail("KAFKA_TLS_CERT_FILE", "and KAFKA_TLS_KEY_FILE go together; one of them is missing")
	}
	if !on {
		if ca != "" || cert != "" || key != "" {
			r.Fail("KAFKA_TLS", "is off, but certificate files are set; set it to true or remove them")
		}
		return nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		cfg.RootCAs = pool(r, ca)
	}
	if cert != "" && key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			r.Fail("KAFKA_TLS_CERT_FILE", "%v", err)
		}
		// Read again at each handshake, so that a rotated certificate needs no restart.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if fresh, err := tls.LoadX509KeyPair(cert, key); err == nil {
				return &fresh, nil
			}
			return &pair, nil
		}
	}
	return cfg
}

func pool(r *env.Reader, path string) *x509.CertPool {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil // already named by File
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		r.Fail("KAFKA_TLS_CA_FILE", "%s holds no PEM certificate", path)
	}
	return roots
}

func saslFromEnv(r *env.Reader) sasl.Mechanism {
	name := r.Enum("KAFKA_SASL_MECHANISM", "", "", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
	user, file := r.String("KAFKA_SASL_USERNAME", ""), r.File("KAFKA_SASL_PASSWORD_FILE")
	if name == "" {
		if user != "" || file != "" {
			r.Fail("KAFKA_SASL_MECHANISM", "is not set, but a user or a password file is")
		}
		return nil
	}
	if user == "" {
		r.Fail("KAFKA_SASL_USERNAME", "is needed with KAFKA_SASL_MECHANISM")
	}
	if file == "" {
		r.Fail("KAFKA_SASL_PASSWORD_FILE", "is needed with KAFKA_SASL_MECHANISM")
	}
	if user == "" || file == "" {
		return nil
	}
	m := &fileMechanism{name: name, user: user, file: file}
	if _, err := m.mechanism(); err != nil {
		r.Fail("KAFKA_SASL_PASSWORD_FILE", "%v", err)
	}
	return m
}

// fileMechanism reads the password at each authentication, so that a rotated
// one needs no restart.
type fileMechanism struct{ name, user, file string }

func (m *fileMechanism) Name() string { return m.name }

func (m *fileMechanism) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	mechanism, err := m.mechanism()
	if err != nil {
		return nil, nil, err
	}
	return mechanism.Start(ctx)
}

func (m *fileMechanism) mechanism() (sasl.Mechanism, error) {
	password, err := os.ReadFile(m.file)
	if err != nil {
		return nil, fmt.Errorf("read the password: %w", err)
	}
	secret := strings.TrimRight(string(password), "\r\n")
	switch m.name {
	case "PLAIN":
		return plain.Mechanism{Username: m.user, Password: secret}, nil
	case "SCRAM-SHA-256":
		return scram.Mechanism(scram.SHA256, m.user, secret)
	}
	return scram.Mechanism(scram.SHA512, m.user, secret)
}

// NewTransport makes the one connection pool of a process. The owner calls
// CloseIdleConnections on it last.
func NewTransport(cfg Config) *kafkago.Transport {
	return &kafkago.Transport{
		Dial:        cfg.Dial,
		DialTimeout: 3 * time.Second,
		IdleTimeout: 2 * time.Minute,
		MetadataTTL: 2 * time.Second,
		ClientID:    cfg.ClientID,
		TLS:         cfg.TLS,
		SASL:        cfg.SASL,
	}
}

// NewClient speaks to the cluster of cfg over t.
func NewClient(cfg Config, t *kafkago.Transport) *kafkago.Client {
	return &kafkago.Client{Addr: kafkago.TCP(cfg.Brokers...), Transport: t, Timeout: 10 * time.Second}
}

// Forget drops pooled connections and what is known of leaders: without it a
// moved leader is noticed only when the metadata expires.
func Forget(client *kafkago.Client) {
	if t, ok := client.Transport.(*kafkago.Transport); ok {
		t.CloseIdleConnections()
	}
}
