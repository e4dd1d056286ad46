package app

import (
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/token"
	"github.com/taskwire/taskwire/internal/webhook"
)

// Config holds all settings of the bridge.
type Config struct {
	HTTP           httpd.Config
	Kafka          kafka.Config // its Topic is for the file and the subscriptions that name none
	File           string       // with the subscriptions; "" for the two default ones
	seen           fs.FileInfo  // of File, before it was read
	Topic          string       // of the subscriptions that name none
	Subscriptions  []Subscription
	InstanceID     string          // group.instance.id; "" for a dynamic member
	MemoryBudget   int64           // bytes held for all partitions of all subscriptions
	AdminTokenFile string          // bearer token for the admin API; "" leaves reads open, and writes from loopback only
	StateKeyFile   string          // keys that seal commits; "" trusts every commit
	AdminHosts     httpd.Hosts     // names of the admin API beside localhost and any address; not nil
	Origin         string          // the bridge's name in the handshake with sinks
	Callback       string          // address of the public port for sinks; "" for none
	Console        Console         // the web console
	SinkAllow      []netip.Prefix  // link-local and metadata addresses that sinks may have
	Registry       registry.Config // of the schemas of data in Avro
}

// Subscription is one entry of the configuration file.
type Subscription struct {
	Name        string          `yaml:"name"`
	Topic       string          `yaml:"topic"`
	Records     string          `yaml:"records"` // cloudevents, or wrap for any records
	Group       string          `yaml:"group"`
	Sink        string          `yaml:"sink"`
	Types       []string        `yaml:"types,omitempty"`
	Filters     []filter.Filter `yaml:"filters,omitempty"`
	Mode        pump.Mode       `yaml:"mode"`
	Data        string          `yaml:"data"` // json, or as-is for data in Avro as it came
	Batch       Batch           `yaml:"batch"`
	Order       pump.Order      `yaml:"order"`
	Concurrency int             `yaml:"concurrency"`
	Timeout     time.Duration   `yaml:"timeout"`
	Retry       Retry           `yaml:"retry"`
	Exhausted   string          `yaml:"exhausted"`
	DeadLetter  string          `yaml:"deadletter"`
	Rate        float64         `yaml:"rate"`
	Signing     Signing         `yaml:"signing,omitempty"`
	Auth        Auth            `yaml:"auth,omitempty"`
	Headers     Headers         `yaml:"headers,omitempty"`
	TLS         TLS             `yaml:"tls,omitempty"`
	Handshake   bool            `yaml:"handshake"`
}

// Signing is how posts are signed, as Standard Webhooks has it.
type Signing struct {
	SecretFile string `yaml:"secret_file,omitempty"` // one whsec_... a line, several during a rotation
}

// Auth is the token that posts carry.
type Auth struct {
	BearerFile string `yaml:"bearer_file,omitempty"` // one token, sent as Authorization: Bearer
}

// Retry controls how a failed delivery is retried.
type Retry struct {
	Initial    time.Duration `yaml:"initial"`
	Multiplier float64       `yaml:"multiplier"`
	Max        time.Duration `yaml:"max"`
	Attempts   int           `yaml:"attempts"`
	For        time.Duration `yaml:"for"`
}

// FromEnv reads the settings and the configuration file; its error names every mistake.
func FromEnv(lookup env.Lookup) (Config, error) {
	r := env.NewReader(lookup)
	cfg := Config{
		HTTP:           httpd.ConfigFromEnv(r, "bridge", 8001),
		Kafka:          kafka.ConfigFromEnv(r, "bridge"),
		InstanceID:     instanceID(r),
		MemoryBudget:   r.Bytes("MEMORY_BUDGET", memoryBudget(), 16<<20),
		AdminTokenFile: adminToken(r),
		StateKeyFile:   stateKeyFile(r),
		AdminHosts:     adminHosts(r),
		SinkAllow:      sinkAllow(r),
		Origin:         origin(r),
		Callback:       callback(r),
		Console:        consoleFromEnv(r),
	}
	cfg.Registry, _ = registry.ConfigFromEnv(r)
	cfg.File = r.String("BRIDGE_CONFIG", "") // read reports one that is missing
	if cfg.File == "" {
		cfg.Topic, cfg.Subscriptions = cfg.Kafka.Topic, cfg.defaults(r)
		return cfg, r.Err()
	}
	cfg.seen = stat(cfg.File)
	f, wrong := cfg.read()
	cfg.Topic, cfg.Subscriptions = f.Topic, f.Subscriptions
	for _, w := range wrong {
		r.Fail("BRIDGE_CONFIG", "%s", w)
	}
	return cfg, r.Err()
}

// operator is whose the tokens of ADMIN_TOKEN_FILE are: it names no persons.
const operator = "operator"

func adminToken(r *env.Reader) string {
	path := r.String("ADMIN_TOKEN_FILE", "")
	if path == "" {
		return ""
	}
	if err := token.CheckFor(operator, path); err != nil {
		r.Fail("ADMIN_TOKEN_FILE", "%v", err)
	}
	return path
}

func adminHosts(r *env.Reader) httpd.Hosts {
	hosts := httpd.Hosts{}
	for _, name := range r.List("ADMIN_HOSTS", "") {
		if strings.ContainsAny(name, ":/*@ ") {
			r.Fail("ADMIN_HOSTS", "want names such as bridge.example.com, without scheme, port and wildcard, separated by commas; have %q", name)
		}
		hosts = append(hosts, name)
	}
	return hosts
}

// sinkAllow accepts addresses and prefixes such as 169.254.0.0/16.
func sinkAllow(r *env.Reader) []netip.Prefix {
	var allow []netip.Prefix
	for _, item := range r.List("SINK_ALLOW", "") {
		prefix, err := netip.ParsePrefix(item)
		if addr, single := netip.ParseAddr(item); single == nil {
			addr = addr.Unmap().WithZone("")
			prefix, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			r.Fail("SINK_ALLOW", "want addresses or prefixes such as 169.254.1.2 or fe80::/10, separated by commas; have %q", item)
			continue
		}
		allow = append(allow, prefix)
	}
	return allow
}

// memoryBudget is a third of the memory limit that process.Main set from the
// container's, or that GOMEMLIMIT says; without a limit 256 MiB. The rest is for
// the program itself and for garbage that is not collected yet.
func memoryBudget() int64 {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return max(limit/3, 16<<20)
	}
	return 256 << 20
}

// instanceID makes the member static. A pod has a name that a restarted
// container keeps. Elsewhere it must be set: a host may run two bridges, and
// hosts created from one image may share a name; of two processes with one id
// the older ends.
func instanceID(r *env.Reader) string {
	if id := r.String("KAFKA_GROUP_INSTANCE_ID", ""); id != "" {
		return id
	}
	if r.String("KUBERNETES_SERVICE_HOST", "") != "" {
		return r.String("HOSTNAME", "")
	}
	return ""
}

// filled sets the defaults of what was left out. topic is for a subscription that
// names none.
func (s Subscription) filled(topic string) Subscription {
	orString := func(p *string, def string) {
		if *p == "" {
			*p = def
		}
	}
	orDuration := func(p *time.Duration, def time.Duration) {
		if *p == 0 {
			*p = def
		}
	}
	orString(&s.Topic, topic)
	orString(&s.Records, recordsAreEvents)
	orString((*string)(&s.Mode), string(pump.Structured))
	orString(&s.Data, dataAsJSON)
	s.Batch = s.Batch.filled()
	orString((*string)(&s.Order), string(pump.ByKey))
	orString(&s.Exhausted, "deadletter")
	orString(&s.DeadLetter, s.Topic+"-dlq")
	orDuration(&s.Timeout, 15*time.Second)
	orDuration(&s.Retry.Initial, 200*time.Millisecond)
	orDuration(&s.Retry.Max, 30*time.Second)
	orDuration(&s.Retry.For, time.Hour)
	if s.Concurrency == 0 {
		s.Concurrency = 64
	}
	if s.Retry.Multiplier == 0 {
		s.Retry.Multiplier = 2
	}
	if s.Retry.Attempts == 0 {
		s.Retry.Attempts = 10
	}
	return s
}

func (s Subscription) check() []string {
	var wrong []string
	report := func(bad bool, what string) {
		if bad {
			wrong = append(wrong, what)
		}
	}
	report(s.Name == "", "name: is missing")
	report(s.Group == "", "group: is missing")
	if err := env.CheckURL(s.Sink); err != nil {
		wrong = append(wrong, "sink: "+err.Error())
	}
	report(s.Records != recordsAreEvents && s.Records != recordsAreWrapped, "records: want cloudevents or wrap")
	wrong = append(wrong, s.checkMode()...)
	report(s.Data != dataAsJSON && s.Data != dataAsIs, "data: want json or as-is")
	report(s.Order != pump.ByKey && s.Order != pump.ByPartition && s.Order != pump.None, "order: want key, partition or none")
	report(s.Concurrency < 1 || s.Concurrency > 10_000, "concurrency: want 1 to 10000")
	report(s.Timeout < time.Millisecond || s.Timeout > time.Hour, "timeout: want 1ms to 1h")
	report(s.Retry.Initial < 0 || s.Retry.Initial > s.Retry.Max, "retry.initial: want at most retry.max")
	report(!(s.Retry.Multiplier >= 1 && s.Retry.Multiplier <= 100), "retry.multiplier: want 1 to 100")
	report(s.Retry.Max < 0 || s.Retry.Max > 24*time.Hour, "retry.max: want at most 24h")
	report(s.Retry.Attempts < 1, "retry.attempts: want at least 1")
	report(s.Retry.For < 0, "retry.for: want a positive duration")
	report(s.Exhausted != "deadletter" && s.Exhausted != "block", "exhausted: want deadletter or block")
	report(!(s.Rate >= 0), "rate: want posts per second, or 0 for no limit")
	if s.Signing.SecretFile != "" {
		if err := webhook.Check(s.Signing.SecretFile); err != nil {
			wrong = append(wrong, "signing.secret_file: "+err.Error())
		}
	}
	if s.Auth.BearerFile != "" {
		if err := token.CheckOwn(s.Auth.BearerFile); err != nil {
			wrong = append(wrong, "auth.bearer_file: "+err.Error())
		}
	}
	if err := kafka.CheckTopic(s.Topic); err != nil {
		wrong = append(wrong, "topic: "+err.Error())
		s.DeadLetter = strings.TrimPrefix(s.DeadLetter, s.Topic) // what follows from it is not another mistake
	}
	wrong = append(wrong, s.checkSink()...)
	if err := kafka.CheckTopic(s.DeadLetter); err != nil {
		wrong = append(wrong, "deadletter: "+err.Error())
	}
	return wrong
}

// filters combines the short form and the long one.
func (s Subscription) filters() []filter.Filter {
	if len(s.Types) == 0 {
		return s.Filters
	}
	return append([]filter.Filter{filter.Types(s.Types)}, s.Filters...)
}

// pump opens the secrets of a subscription.
func (c Config) pump(s Subscription, log *slog.Logger) (cfg pump.Config, err error) {
	var signing *webhook.Secrets
	if s.Signing.SecretFile != "" {
		if signing, err = webhook.Open(s.Signing.SecretFile, log); err != nil {
			return cfg, fmt.Errorf("subscription %s: signing.secret_file: %w", s.Name, err)
		}
	}
	var bearer *token.Own
	if s.Auth.BearerFile != "" {
		if bearer, err = token.OpenOwn(s.Auth.BearerFile, log); err != nil {
			return cfg, fmt.Errorf("subscription %s: auth.bearer_file: %w", s.Name, err)
		}
	}
	tls, err := s.TLS.open(log)
	if err != nil {
		return cfg, fmt.Errorf("subscription %s: %w", s.Name, err)
	}
	headers, err := s.Headers.open(log)
	if err != nil {
		return cfg, fmt.Errorf("subscription %s: %w", s.Name, err)
	}
	origin := ""
	if s.Handshake {
		origin = c.Origin
	}
	return pump.Config{
		Signing: signing, Bearer: bearer, Origin: origin, Callback: c.Callback, Headers: headers, TLS: tls,
		Name: s.Name, Group: s.Group, Topic: s.Topic, Wrap: s.Records == recordsAreWrapped, Sink: s.Sink, SinkAllow: c.SinkAllow, Filters: s.filters(), Mode: s.Mode, AsIs: s.Data == dataAsIs, Batch: pump.Batch{Size: s.Batch.Size, Bytes: int(s.Batch.Bytes)}, Order: s.Order, Concurrency: s.Concurrency,
		Timeout: s.Timeout, Backoff: deliver.Backoff{Initial: s.Retry.Initial, Multiplier: s.Retry.Multiplier, Max: s.Retry.Max},
		Attempts: s.Retry.Attempts, For: s.Retry.For, Block: s.Exhausted == "block", DeadLetter: s.DeadLetter, Rate: s.Rate,
		InstanceID: c.InstanceID, CreateTopics: c.Kafka.CreateTopics, Partitions: c.Kafka.Partitions, Drain: c.HTTP.Grace,
	}, nil
}

// text returns the configuration as a file, with defaults filled in and without
// what may be secret.
func (c Config) text() (string, error) {
	shown, comments := slices.Clone(c.Subscriptions), yaml.CommentMap{}
	for i := range shown {
		s := &shown[i]
		if s.Sink = deliver.Shown(s.Sink); s.Sink != c.Subscriptions[i].Sink {
			comments[fmt.Sprintf("$.subscriptions[%d].sink", i)] = []*yaml.Comment{yaml.LineComment(" its query is in force, and not shown")}
		}
		if s.Headers = s.Headers.shown(); len(s.Headers) > 0 {
			comments[fmt.Sprintf("$.subscriptions[%d].headers", i)] = []*yaml.Comment{yaml.HeadComment(" values that are in force and not in files are not shown")}
		}
	}
	out, err := yaml.MarshalWithOptions(file{Topic: c.Topic, Subscriptions: shown}, yaml.IndentSequence(true), yaml.WithComment(comments))
	if err != nil {
		return "", fmt.Errorf("print the configuration: %w", err)
	}
	return strings.TrimSuffix(string(out), "\n") + "\n", nil
}
