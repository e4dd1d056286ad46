package manifests_test

import (
	"crypto/rand"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// secrets are the variables with which a program asks for tokens or signatures,
// or seals what others could change.
var secrets = map[string][]string{
	"taskapi":  {"API_TOKENS_FILE"},
	"bridge":   {"ADMIN_TOKEN_FILE", "BRIDGE_STATE_KEY_FILE"},
	"notifier": {"WEBHOOK_SECRET_FILE"},
	"auditor":  {"WEBHOOK_SECRET_FILE"},
}

// closed reports whether strangers must be kept out: Kafka asks for passwords, or
// the sinks are behind a gateway that anybody can reach.
func (w *world) closed() bool { return w.guarded() || w.serverless }

// openToAnyone: a closed world has every secret, from a mounted Secret, and an
// open one has none, because its documents have people post with curl.
func openToAnyone(w *world) (f findings) {
	webhooks := map[string]string{} // by program, where the secrets of its posts come from
	for _, l := range w.ours() {
		for _, name := range secrets[l.program] {
			from := l.origin(l.value(name))
			f.addIf(w.closed() && from == "", "%s: %s = %q is not a file of a mounted Secret", l, name, l.value(name))
			f.addIf(!w.closed() && l.value(name) != "", "%s sets %s, and nothing else is closed", l, name)
			if name == "WEBHOOK_SECRET_FILE" {
				webhooks[l.program] = from
			}
		}
		for _, v := range l.template.Spec.Volumes {
			f = append(f, readByOthers(l, v)...)
		}
	}
	taken := map[string]string{}
	for _, l := range w.ours() {
		if l.program != "bridge" {
			continue
		}
		for _, s := range w.signed(l) {
			from := l.origin(s.file)
			f.addIf(w.closed() && from == "", "subscription %s: secret_file %q is not a file of a mounted Secret", s.name, s.file)
			f.addIf(w.closed() && from != webhooks[s.sink], "subscription %s signs with %q, and %s expects %q", s.name, from, s.sink, webhooks[s.sink])
			f.addIf(!w.closed() && s.file != "", "subscription %s is signed, and nothing else is closed", s.name)
			// With one secret for two sinks, each could post to the other as the bridge.
			f.addIf(from != "" && taken[from] != "" && taken[from] != s.sink, "%s and %s have one secret", taken[from], s.sink)
			taken[from] = s.sink
		}
		f.addIf(w.closed() && len(w.signed(l)) == 0, "%s has no subscriptions", l)
	}
	return f
}

// readByOthers returns what is wrong with a volume that holds Secrets.
func readByOthers(l workload, v corev1.Volume) (f findings) {
	f.addIf(v.Secret != nil, "%s: volume %s: want a projected volume, which names the files", l, v.Name)
	if v.Projected == nil {
		return f
	}
	mode, pod := v.Projected.DefaultMode, l.template.Spec.SecurityContext
	f.addIf(mode == nil || *mode != 0o440, "%s: volume %s: want the mode 0440", l, v.Name)
	f.addIf(pod == nil || pod.FSGroup == nil, "%s: volume %s: without a group the program cannot read it", l, v.Name)
	for _, s := range v.Projected.Sources {
		f.addIf(s.Secret != nil && s.Secret.Optional != nil && *s.Secret.Optional, "%s starts without the Secret %s", l, s.Secret.Name)
	}
	return f
}

// value returns a variable of the container.
func (w workload) value(name string) string {
	env := w.container().Env
	if i := slices.IndexFunc(env, func(e corev1.EnvVar) bool { return e.Name == name }); i >= 0 {
		return env[i].Value
	}
	return ""
}

// origin returns the Secret and the key of a mounted file, as "api-tokens/tokens",
// or "" when it is not one.
func (w workload) origin(file string) string {
	for _, m := range w.container().VolumeMounts {
		for _, v := range w.template.Spec.Volumes {
			if v.Name != m.Name || v.Projected == nil || m.MountPath != path.Dir(file) || !m.ReadOnly {
				continue
			}
			for _, s := range v.Projected.Sources {
				if s.Secret == nil {
					continue
				}
				for _, item := range s.Secret.Items {
					if item.Path == path.Base(file) {
						return s.Secret.Name + "/" + item.Key
					}
				}
			}
		}
	}
	return ""
}

// signature is how the posts of a subscription are signed.
type signature struct{ name, sink, file string }

// signed reads the configuration as it is mounted, with the paths of the pod.
func (w *world) signed(bridge workload) (found []signature) {
	for _, v := range bridge.template.Spec.Volumes {
		var c struct {
			Subscriptions []struct {
				Name, Sink string
				Signing    struct {
					File string `json:"secret_file"`
				}
			}
		}
		text := w.files(v)[path.Base(bridge.value("BRIDGE_CONFIG"))]
		if yaml.Unmarshal([]byte(text), &c) != nil {
			continue
		}
		for _, s := range c.Subscriptions {
			host := regexp.MustCompile(`^http://([a-z]+)`).FindStringSubmatch(s.Sink)
			if host == nil {
				host = []string{"", s.Sink}
			}
			found = append(found, signature{s.Name, host[1], s.Signing.File})
		}
	}
	return found
}

// TestOverlaysAreOpenOrClosed: without it, an overlay that lost both components
// would pass as an open one.
func TestOverlaysAreOpenOrClosed(t *testing.T) {
	want := map[string]bool{"overlays/kind": false, "overlays/strimzi": false, "overlays/production": true, "overlays/serverless": true, "overlays/scale": true, "overlays/kind-scale": false}
	for _, dir := range overlays(t) {
		closed, ok := want[dir]
		if !ok {
			t.Errorf("%s: is it open or closed?", dir)
		}
		if w := inspect(t, render(t, dir)); w.guarded() != closed || w.closed() != closed {
			t.Errorf("%s: Kafka asks for passwords = %v, services for secrets = %v, want %v", dir, w.guarded(), w.closed(), closed)
		}
	}
}

// made are the Secrets that README.md says how to make, with a content of the
// kind that its command writes.
var made = map[string]string{
	"api-tokens/tokens":        "alice " + strings.Repeat("3f", 32) + "\n",
	"admin-token/token":        strings.Repeat("8c", 32) + "\n",
	"state-key/key":            strings.Repeat("d1", 32) + "\n",
	"webhook-notifier/secrets": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=\n",
	"webhook-auditor/secrets":  "whsec_qrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjUPD8IA=\n",
	"taskapi-postgres/pgpass":  "*:*:*:taskapi:" + strings.Repeat("7e", 24) + "\n",
	"auditor-postgres/pgpass":  "*:*:*:auditor:" + strings.Repeat("5a", 24) + "\n",
	"audit-signing/key":        logKey(),
}

func logKey() string {
	key, _, err := note.GenerateKey(rand.Reader, "audit.example.com/tasks")
	if err != nil {
		panic(err)
	}
	return key + "\n"
}

// TestSecretsAreDocumented: a pod waits for ever for a Secret that nobody makes.
func TestSecretsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile(`kubectl create secret generic ([a-z-]+) -n taskwire --from-file=([a-z.]+)=`).FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1]+"/"+m[2])
	}
	mounted := map[string]bool{}
	for _, dir := range overlays(t) {
		for _, l := range inspect(t, render(t, dir)).ours() {
			for _, v := range l.template.Spec.Volumes {
				if v.Projected == nil {
					continue
				}
				for _, s := range v.Projected.Sources {
					for _, item := range s.Secret.Items {
						// Strimzi makes the passwords.
						if from := s.Secret.Name + "/" + item.Key; item.Key != "password" {
							mounted[from] = true
							if !slices.Contains(documented, from) {
								t.Errorf("%s: %s mounts %s, which README.md does not make", dir, l, from)
							}
						}
					}
				}
			}
		}
	}
	for _, from := range documented {
		if !mounted[from] {
			t.Errorf("README.md makes the Secret %s, which nothing mounts", from)
		}
	}
}

// within moves the paths in a mounted file to where the files of this pod are.
func within(root, text string, l workload) string {
	for _, m := range l.container().VolumeMounts {
		text = strings.ReplaceAll(text, m.MountPath+"/", filepath.Join(root, m.MountPath)+"/")
	}
	return text
}
