package app

import (
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"strings"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/env"
)

var hostName = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// origin is the name of all replicas together, as the webhook specification wants it.
func origin(r *env.Reader) string {
	name := r.String("WEBHOOK_ORIGIN", "bridge.taskwire")
	if len(name) > 253 || !hostName.MatchString(name) {
		r.Fail("WEBHOOK_ORIGIN", "want a name such as bridge.example.com, without scheme, port and path")
	}
	return name
}

// callback is where sinks reach this process.
func callback(r *env.Reader) string {
	address := r.String("WEBHOOK_CALLBACK_URL", "")
	if address == "" {
		return ""
	}
	if err := env.CheckURL(address); err != nil || strings.Contains(address, "?") {
		r.Fail("WEBHOOK_CALLBACK_URL", "want the address of the public port for sinks, such as https://bridge.example.com/, without credentials and query")
	}
	return address
}

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

// Headers are fixed extra ones of each post. A value "file:PATH" is what the file
// holds.
type Headers map[string]string

// open returns nil when there are none.
func (h Headers) open(log *slog.Logger) (*deliver.Headers, error) {
	if len(h) == 0 {
		return nil, nil
	}
	return deliver.OpenHeaders(h, log)
}

// shown leaves out values that may be secret. What remains is refused as a
// configuration, so that nobody starts a bridge with it by mistake.
func (h Headers) shown() Headers {
	shown := maps.Clone(h)
	for name, value := range shown {
		if !strings.HasPrefix(value, "file:") {
			shown[name] = ""
		}
	}
	return shown
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
	for _, w := range deliver.CheckHeaders(s.Headers) {
		wrong = append(wrong, "headers."+w)
	}
	for name := range s.Headers {
		if strings.EqualFold(name, "Authorization") && s.Auth.BearerFile != "" {
			wrong = append(wrong, "headers."+name+": auth.bearer_file sets this header; want one of the two")
		}
	}
	return wrong
}
