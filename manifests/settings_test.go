package manifests_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	auditor "github.com/taskwire/taskwire/auditor/app"
	bridge "github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
	kafkaclient "github.com/taskwire/taskwire/internal/kafka"
	notifier "github.com/taskwire/taskwire/notifier/app"
	taskapi "github.com/taskwire/taskwire/taskapi/app"
)

// settings are the result of reading a program's environment.
type settings struct {
	http  httpd.Config
	kafka kafkaclient.Config // zero for programs without Kafka
	data  string             // the file that it writes
	asked map[string]bool    // every variable that it reads
}

// read uses the programs' own code.
var read = map[string]func(env.Lookup) (settings, error){
	"taskapi": func(l env.Lookup) (settings, error) {
		c, err := taskapi.FromEnv(l)
		return settings{http: c.HTTP, kafka: c.Kafka, data: c.Database}, err
	},
	"bridge": func(l env.Lookup) (settings, error) {
		c, err := bridge.FromEnv(l)
		if err != nil {
			return settings{}, err
		}
		for _, sub := range bridge.Commands() {
			if sub.Name == "check" {
				err = sub.Run(context.Background(), l, nil, io.Discard, io.Discard)
			}
		}
		return settings{http: c.HTTP, kafka: c.Kafka}, err
	},
	"notifier": func(l env.Lookup) (settings, error) {
		c, err := notifier.FromEnv(l)
		return settings{http: c.HTTP}, err
	},
	"auditor": func(l env.Lookup) (settings, error) {
		c, err := auditor.FromEnv(l)
		return settings{http: c.HTTP, data: c.Path}, err
	},
}

// settings reads the settings with the environment and the files of the pod.
func (w *world) settings(l workload) (settings, error) {
	ask, ok := read[l.program]
	if !ok {
		return settings{}, fmt.Errorf("%s is not one of the programs", l)
	}
	root, err := w.mount(l)
	if err != nil {
		return settings{}, err
	}
	vars := map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1", "HOSTNAME": l.program + "-0"}
	if l.serverless() && len(l.container().Ports) > 0 {
		vars["PORT"] = fmt.Sprint(l.container().Ports[0].ContainerPort)
	}
	for _, e := range l.container().Env {
		vars[e.Name] = inside(root, e.Value)
		if e.ValueFrom != nil {
			vars[e.Name] = l.program + "-0"
		}
	}
	asked := map[string]bool{}
	s, err := ask(func(key string) (string, bool) {
		asked[key] = true
		v, ok := vars[key]
		return v, ok
	})
	s.asked = asked
	s.data = strings.TrimPrefix(s.data, root)
	return s, err
}

// inside moves a path in a value below root.
func inside(root, value string) string {
	for _, prefix := range []string{"", "sqlite:"} {
		if path, ok := strings.CutPrefix(value, prefix+"/"); ok {
			return prefix + filepath.Join(root, path)
		}
	}
	return strings.ReplaceAll(value, "=/etc/", "="+root+"/etc/") // in the query of a URL
}

// bridge returns the configuration of the bridge, empty when it is invalid.
func (w *world) bridge() (cfg bridge.Config) {
	for _, l := range w.ours() {
		if l.program != "bridge" {
			continue
		}
		root, err := w.mount(l)
		if err != nil {
			return cfg
		}
		vars := map[string]string{}
		for _, e := range l.container().Env {
			vars[e.Name] = inside(root, e.Value)
		}
		if c, err := bridge.FromEnv(env.Map(vars)); err == nil {
			cfg = c
		}
	}
	return cfg
}

// mount writes the files of a pod's volumes below a folder, as the kubelet does.
func (w *world) mount(l workload) (root string, err error) {
	root, err = os.MkdirTemp(w.dir, l.program)
	if err != nil {
		return "", err
	}
	for _, m := range l.container().VolumeMounts {
		dir := filepath.Join(root, m.MountPath)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
		for _, v := range l.template.Spec.Volumes {
			if v.Name != m.Name {
				continue
			}
			for name, text := range w.files(v) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(within(root, text, l)), 0o600); err != nil {
					return "", err
				}
			}
		}
	}
	return root, nil
}

// files returns the files of a volume, without those that are not rendered.
func (w *world) files(v corev1.Volume) map[string]string {
	found := map[string]string{}
	if v.ConfigMap != nil {
		for _, o := range w.of("ConfigMap") {
			data, _ := o["data"].(map[string]any)
			for name, text := range data {
				if o.name() == v.ConfigMap.Name {
					found[name] = fmt.Sprint(text)
				}
			}
		}
	}
	if v.Projected != nil {
		for _, source := range v.Projected.Sources {
			if source.Secret == nil {
				continue
			}
			for _, item := range source.Secret.Items {
				if text, ok := w.secret(source.Secret.Name, item.Key); ok {
					found[item.Path] = text
				}
			}
		}
	}
	return found
}

// secret returns what Strimzi generates for a user, or what the documents say how
// to make.
func (w *world) secret(name, key string) (string, bool) {
	if text, ok := made[name+"/"+key]; ok {
		return text, true
	}
	switch {
	case name == "task-events-cluster-ca-cert" && key == "ca.crt":
		return authority(), w.guarded()
	case name == "postgres-ca" && key == "ca.crt":
		return authority(), len(w.of("Cluster")) > 0
	case key == "password":
		return "of-" + name, w.has("KafkaUser", taskwire, name)
	}
	return "", false
}

// authority is a self-signed certificate.
var authority = sync.OnceValue(func() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
})

// wrongSettings: each program accepts its environment, reads all of it, and writes
// to a persistent volume.
func wrongSettings(w *world) (f findings) {
	for _, l := range w.ours() {
		s, err := w.settings(l)
		if err != nil {
			f.addIf(true, "%s: %v", l, err)
			continue
		}
		for _, e := range l.container().Env {
			known := s.asked[e.Name] || e.Name == "PGPASSFILE" && l.value("AUDIT_DATABASE_URL") != "" // which the driver reads
			f.addIf(!known, "%s: %s does not read %s", l, l.program, e.Name)
		}
		public := programs[l.program]
		f.addIf(s.http.Addr != fmt.Sprintf(":%d", public) || s.http.OpsAddr != fmt.Sprintf(":%d", public+1000), "%s listens on %s and %s, want :%d and :%d", l, s.http.Addr, s.http.OpsAddr, public, public+1000)
		f.addIf(s.data != "" && !kept(l, s.data), "%s: %s is not on a persistent volume", l, s.data)
		f.addIf(s.kafka.SASL.Username != "" && s.kafka.SASL.Username != l.program, "%s logs in as %s, want %s", l, s.kafka.SASL.Username, l.program)
	}
	return f
}

func kept(l workload, path string) bool {
	for _, m := range l.container().VolumeMounts {
		for _, v := range l.template.Spec.Volumes {
			if v.Name == m.Name && v.PersistentVolumeClaim != nil && !m.ReadOnly && strings.HasPrefix(path, m.MountPath+"/") {
				return true
			}
		}
	}
	return false
}
