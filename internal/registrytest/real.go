package registrytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/freeport"
)

const (
	startTimeout = 2 * time.Minute // two cores may be shared by several test processes
	stopTimeout  = 15 * time.Second
)

// Real is an Apicurio Registry in its own process. On Linux it ends with this
// process, however this process ends. Its methods must not be called concurrently.
type Real struct {
	URL string // of the API that is compatible with Confluent's; unchanged by Restart

	dir string
	cmd *exec.Cmd // as Command has made it
	jvm *child.Process
}

// Options say how a real registry runs.
type Options struct {
	Dir      string    // for its log and, without Brokers, its schemas
	Brokers  []string  // of the Kafka that keeps its schemas
	Port     int       // on 127.0.0.1; 0 chooses a free one
	Progress io.Writer // progress of a download, which takes a while
}

// Command returns what runs a registry, and its URL. It downloads the registry if
// necessary.
func Command(ctx context.Context, opts Options) (cmd *exec.Cmd, url string, err error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, "", errors.New("no java on the PATH: the Schema Registry needs a Java runtime of version 17 or newer, install one (Debian: apt-get install openjdk-17-jre-headless)")
	}
	home, err := Fetch(ctx, opts.Progress)
	if err != nil {
		return nil, "", err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", opts.Port)
	if opts.Port == 0 {
		addr = freeport.Addr()
	}
	_, port, _ := strings.Cut(addr, ":")
	cmd = exec.Command(java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
		"-jar", filepath.Join(home, "apicurio-registry-app-"+Version+"-runner.jar"))
	cmd.Dir = opts.Dir
	cmd.Env = append(os.Environ(), "QUARKUS_HTTP_HOST=127.0.0.1", "QUARKUS_HTTP_PORT="+port)
	if len(opts.Brokers) > 0 {
		cmd.Env = append(cmd.Env, "APICURIO_STORAGE_KIND=kafkasql", "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS="+strings.Join(opts.Brokers, ","))
	} else {
		file, err := filepath.Abs(filepath.Join(opts.Dir, "schemas"))
		if err != nil {
			return nil, "", err
		}
		cmd.Env = append(cmd.Env, "APICURIO_STORAGE_KIND=sql", "APICURIO_STORAGE_SQL_KIND=h2", "APICURIO_DATASOURCE_URL=jdbc:h2:file:"+file)
	}
	return cmd, "http://" + addr + "/apis/ccompat/v7", nil
}

// OpenReal downloads the registry if necessary and returns when it answers.
func OpenReal(ctx context.Context, opts Options) (*Real, error) {
	cmd, url, err := Command(ctx, opts)
	if err != nil {
		return nil, err
	}
	r := &Real{URL: url, dir: opts.Dir, cmd: cmd}
	return r, r.Restart(ctx)
}

// StartReal starts a registry that ends with the test.
func StartReal(t testing.TB, brokers []string) *Real {
	t.Helper()
	r, err := OpenReal(t.Context(), Options{Dir: t.TempDir(), Brokers: brokers, Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last lines of the registry's log:\n%s", r.lastLines())
		}
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *Real) log() string { return filepath.Join(r.dir, "registry.log") }

// Restart starts it again, after Stop, with the same address and schemas.
func (r *Real) Restart(ctx context.Context) error {
	cmd := exec.Command(r.cmd.Path, r.cmd.Args[1:]...) // one is run only once
	cmd.Dir, cmd.Env = r.cmd.Dir, r.cmd.Env
	var err error
	if r.jvm, err = child.Start(cmd, r.log()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := r.jvm.AwaitReady(ctx, r.URL+"/subjects"); err != nil {
		return errors.Join(fmt.Errorf("start the Schema Registry: %w\n%s", err, r.lastLines()), r.Stop())
	}
	return nil
}

// Stop kills it; its schemas are in Kafka or in its folder.
func (r *Real) Stop() error {
	if r.jvm == nil {
		return nil
	}
	jvm := r.jvm
	r.jvm = nil
	return jvm.End(syscall.SIGKILL, stopTimeout)
}

// Forget deletes the schemas of a registry that keeps them in its folder and is stopped.
func (r *Real) Forget() error {
	files, err := filepath.Glob(filepath.Join(r.dir, "schemas*"))
	if err == nil && len(files) == 0 {
		err = errors.New("the registry keeps no schemas in its folder")
	}
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

func (r *Real) lastLines() []byte {
	log, err := os.ReadFile(r.log())
	if err != nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-15):], []byte("\n"))
}
