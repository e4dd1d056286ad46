package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/kafka"
)

func TestDefaults(t *testing.T) {
	r := env.NewReader(env.Map(nil))
	cfg := kafka.ConfigFromEnv(r, "bridge")
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	want := kafka.Config{Brokers: []string{"localhost:9092"}, Topic: "task-events", ClientID: "bridge", Partitions: 1}
	if diff := cmp.Diff(want, cfg, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Dial" }, cmp.Ignore())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMistakes(t *testing.T) {
	some, empty := write(t, "some", "secret"), write(t, "empty", "\n")
	for name, c := range map[string]struct {
		set  map[string]string
		want []string // the variable at the head of each line, in order
	}{
		"brokers and topic": {map[string]string{"KAFKA_BOOTSTRAP_SERVERS": "nowhere", "KAFKA_TOPIC": "a b", "KAFKA_TOPIC_PARTITIONS": "0", "KAFKA_CREATE_TOPICS": "maybe"},
			[]string{"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_CREATE_TOPICS", "KAFKA_TOPIC_PARTITIONS", "KAFKA_TOPIC"}},
		"files without TLS": {map[string]string{"KAFKA_TLS_CA_FILE": some, "KAFKA_TLS_CERT_FILE": some, "KAFKA_TLS_KEY_FILE": some},
			[]string{"KAFKA_TLS_CA_FILE", "KAFKA_TLS_CERT_FILE", "KAFKA_TLS_KEY_FILE"}},
		"missing files": {map[string]string{"KAFKA_TLS": "true", "KAFKA_TLS_CA_FILE": "/none", "KAFKA_TLS_CERT_FILE": "/none", "KAFKA_TLS_KEY_FILE": "/none"},
			[]string{"KAFKA_TLS_CA_FILE", "KAFKA_TLS_CERT_FILE", "KAFKA_TLS_KEY_FILE"}},
		"no certificates": {map[string]string{"KAFKA_TLS": "true", "KAFKA_TLS_CA_FILE": some, "KAFKA_TLS_CERT_FILE": some, "KAFKA_TLS_KEY_FILE": some},
			[]string{"KAFKA_TLS_CA_FILE", "KAFKA_TLS_CERT_FILE"}},
		"half a pair":             {map[string]string{"KAFKA_TLS": "true", "KAFKA_TLS_CERT_FILE": some}, []string{"KAFKA_TLS_KEY_FILE"}},
		"other half":              {map[string]string{"KAFKA_TLS": "true", "KAFKA_TLS_KEY_FILE": some}, []string{"KAFKA_TLS_CERT_FILE"}},
		"mechanism":               {map[string]string{"KAFKA_SASL_MECHANISM": "GSSAPI"}, []string{"KAFKA_SASL_MECHANISM"}},
		"mechanism alone":         {map[string]string{"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"}, []string{"KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD_FILE"}},
		"no mechanism":            {map[string]string{"KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD_FILE": some}, []string{"KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD_FILE"}},
		"empty password":          {map[string]string{"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD_FILE": empty}, []string{"KAFKA_SASL_PASSWORD_FILE"}},
		"password is a directory": {map[string]string{"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD_FILE": t.TempDir()}, []string{"KAFKA_SASL_PASSWORD_FILE"}},
		"password in clear text":  {map[string]string{"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD_FILE": some}, []string{"KAFKA_SASL_MECHANISM"}},
		"insecure, but how":       {map[string]string{"KAFKA_SASL_INSECURE": "perhaps"}, []string{"KAFKA_SASL_INSECURE"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := env.NewReader(env.Map(c.set))
			kafka.ConfigFromEnv(r, "test")
			var e *env.Error
			if !errors.As(r.Err(), &e) {
				t.Fatalf("Err = %v", r.Err())
			}
			var got []string
			for _, m := range e.Mistakes {
				key, _, _ := strings.Cut(m, ":")
				got = append(got, key)
				if strings.Contains(m, "secret") {
					t.Errorf("message reveals a secret: %s", m)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, e)
			}
		})
	}
}

func TestPlainWithoutTLSIsAskedFor(t *testing.T) {
	r := env.NewReader(env.Map(map[string]string{
		"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD_FILE": write(t, "password", "secret"), "KAFKA_SASL_INSECURE": "true",
	}))
	kafka.ConfigFromEnv(r, "test")
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// secure starts a broker that requires TLS and a password.
func secure(t *testing.T, mechanism string) (cfg kafka.Config, pair tls.Certificate) {
	t.Helper()
	pair, ca := certificate(t)
	b, err := embedkafka.Start(embedkafka.Config{Topics: map[string]int{topic: 1}, Options: []kfake.Opt{
		kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}),
		kfake.EnableSASL(), kfake.Superuser(mechanism, "user", "right"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	r := env.NewReader(env.Map(map[string]string{
		"KAFKA_BOOTSTRAP_SERVERS": b.Addr(), "KAFKA_TLS": "true", "KAFKA_TLS_CA_FILE": write(t, "ca.pem", ca),
		"KAFKA_SASL_MECHANISM": mechanism, "KAFKA_SASL_USERNAME": "user", "KAFKA_SASL_PASSWORD_FILE": write(t, "password", "right\n"),
	}))
	cfg = kafka.ConfigFromEnv(r, "test")
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return cfg, pair
}

func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func connect(t *testing.T, cfg kafka.Config) *kafkago.Client {
	t.Helper()
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	return kafka.NewClient(cfg, transport)
}

func TestTLSAndEveryMechanism(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			cfg, _ := secure(t, mechanism)
			client := connect(t, cfg)
			if err := kafka.Reachable(within(t, 20*time.Second), client); err != nil {
				t.Fatal(err)
			}
			// A changed password takes effect without a restart.
			for _, password := range []string{"wrong", "right"} {
				if err := os.WriteFile(cfg.SASL.PasswordFile, []byte(password), 0o600); err != nil {
					t.Fatal(err)
				}
				kafka.Forget(client)
				err := kafka.Reachable(within(t, 20*time.Second), client)
				if (err == nil) != (password == "right") {
					t.Errorf("Reachable with the %s password = %v", password, err)
				}
				if err != nil && strings.Contains(err.Error(), "wrong") {
					t.Errorf("message reveals the password: %v", err)
				}
			}
		})
	}
}

func TestUnknownAuthority(t *testing.T) {
	cfg, _ := secure(t, "PLAIN")
	_, other := certificate(t)
	cfg.TLS.CAFile = write(t, "other.pem", other)
	err := kafka.Reachable(within(t, 20*time.Second), connect(t, cfg))
	var unknown x509.UnknownAuthorityError
	var failed *tls.CertificateVerificationError
	if !errors.As(err, &unknown) && !errors.As(err, &failed) {
		t.Errorf("Reachable = %v, want an unknown authority", err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Reachable waited for its deadline: %v", err)
	}
}

func TestSecretsThatCannotBeReadFailAtOnce(t *testing.T) {
	cfg, _ := secure(t, "PLAIN")
	broken := cfg
	broken.TLS.CAFile = "/none"
	if _, err := kafka.NewTransport(broken); err == nil {
		t.Error("NewTransport accepts a missing CA file")
	}
	broken = cfg
	broken.SASL.PasswordFile = "/none"
	if _, err := kafka.NewTransport(broken); err == nil {
		t.Error("NewTransport accepts a missing password file")
	}
}
