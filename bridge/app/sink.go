package app

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

// TLS is how an https sink is known, and the bridge is known to it. The files are
// read again when they change.
type TLS struct {
	CAFile     string `yaml:"ca_file,omitempty"`
	CertFile   string `yaml:"cert_file,omitempty"`
	KeyFile    string `yaml:"key_file,omitempty"`
	ServerName string `yaml:"server_name,omitempty"`
}

func (t TLS) files() deliver.TLSFiles {
	return deliver.TLSFiles{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile, ServerName: t.ServerName}
}

// open returns nil when nothing is set.
func (t TLS) open(log *slog.Logger) (*deliver.TLS, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	settings, err := deliver.OpenTLS(t.files(), log)
	if err != nil {
		return nil, fmt.Errorf("tls.%w", err)
	}
	return settings, nil
}

// checkSink names the mistakes in what is sent to the sink beside the event.
func (s Subscription) checkSink() []string {
	var wrong []string
	if s.TLS != (TLS{}) && strings.HasPrefix(strings.ToLower(s.Sink), "http:") {
		wrong = append(wrong, "tls: has no effect on a sink whose address begins with http://; want https://")
	}
	for _, w := range s.TLS.files().Check() {
		wrong = append(wrong, "tls."+w)
	}
	return wrong
}
