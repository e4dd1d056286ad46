package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	startTimeout = 60 * time.Second // two cores may be shared by several test processes
	stopTimeout  = 30 * time.Second
	role         = "taskwire"
)

// Server is a PostgreSQL in processes of its own. It ends with this process,
// however this process ends. Its methods must not be called concurrently.
type Server struct {
	opts     Options
	bin      string
	account  *syscall.Credential
	password string
	port     int

	mu    sync.Mutex // guards the fields below
	cmd   *exec.Cmd  // nil when stopped
	guard *child.Guard
}

// Options say how a server runs; Dir must be set.
type Options struct {
	Dir      string   // data, socket and log; made when it is new
	Scratch  bool     // remove Dir when this process dies
	Port     int      // on 127.0.0.1; 0 chooses a free one
	Settings []string // of postgresql.conf, such as "max_connections=20"
}

// Open makes a cluster and returns when its server accepts connections.
func Open(ctx context.Context, opts Options) (*Server, error) {
	bin, err := find(ctx)
	if err != nil {
		return nil, err
	}
	account, err := account()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, bin: bin, account: account, password: rand.Text()}
	if err := s.create(ctx); err != nil {
		return nil, fmt.Errorf("make a PostgreSQL cluster: %w", err)
	}
	for tries := 3; ; tries-- {
		s.port = opts.Port
		if s.port == 0 {
			s.port = freeport.Port()
		}
		err := s.start(ctx)
		if err == nil {
			return s, nil
		}
		if tries == 1 || opts.Port != 0 || ctx.Err() != nil {
			return nil, err
		}
	}
}

func (s *Server) path(name string) string { return filepath.Join(s.opts.Dir, name) }

// create makes the folder, gives it to the server's account and fills it. What a
// test loses when this machine loses its power is no matter, so initdb does not
// sync; the server itself does, as in production.
func (s *Server) create(ctx context.Context) error {
	if err := os.MkdirAll(s.opts.Dir, 0o700); err != nil {
		return err
	}
	secret := s.path("password")
	if err := os.WriteFile(secret, []byte(s.password+"\n"), 0o600); err != nil {
		return err
	}
	if s.account != nil {
		for _, name := range []string{s.opts.Dir, secret} {
			if err := os.Chown(name, int(s.account.Uid), int(s.account.Gid)); err != nil {
				return err
			}
		}
	}
	initdb := s.command(context.WithoutCancel(ctx), "initdb", "-D", s.path("data"), "-U", role, "--pwfile", secret, "-A", "scram-sha-256",
		"-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(out))
	}
	return os.Remove(secret)
}

func (s *Server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...)
	cmd.Dir = s.opts.Dir
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC"} // nothing of libpq's PG variables
	// Ctrl-C goes to the tests alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.account}
	return cmd
}

// start runs the server and returns when it accepts connections.
func (s *Server) start(ctx context.Context) error {
	log, err := os.OpenFile(s.path("server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-D", s.path("data"), "-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + s.opts.Dir}
	for _, setting := range s.opts.Settings {
		args = append(args, "-c", setting)
	}
	// A Cmd with a context or a pipe has goroutines that outlive the test.
	cmd := s.command(context.WithoutCancel(ctx), "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	scratch := ""
	if s.opts.Scratch {
		scratch = s.opts.Dir
	}
	// After SIGQUIT the server removes its shared memory, after SIGKILL it cannot.
	guard, err := child.NewGuard(cmd.Process.Pid, scratch, syscall.SIGQUIT)
	if err != nil {
		return errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	s.mu.Lock()
	s.cmd, s.guard = cmd, guard
	s.mu.Unlock()
	if err := s.await(ctx); err != nil {
		return errors.Join(fmt.Errorf("start PostgreSQL: %w\n%s", err, s.lastLines()), s.end(syscall.SIGQUIT))
	}
	return nil
}

// await polls until a connection is accepted.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		if s.exited() {
			return errors.New("the server ended at once")
		}
		if end := retry.Pause(ctx, 10*time.Millisecond); end != nil {
			return fmt.Errorf("%w (last error: %w)", end, err)
		}
	}
}

// exited reports, without waiting, whether the server has ended.
func (s *Server) exited() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return true
	}
	var status syscall.WaitStatus
	got, err := syscall.Wait4(s.cmd.Process.Pid, &status, syscall.WNOHANG, nil)
	if err != nil || got != s.cmd.Process.Pid {
		return false
	}
	s.guard.Release()
	s.cmd, s.guard = nil, nil
	return true
}

// Run runs a program of PostgreSQL's, such as pg_dump, as the server's account. Its
// folder is the server's.
func (s *Server) Run(ctx context.Context, program string, args ...string) error {
	cmd := s.command(ctx, program, args...)
	// The folder of the PATH may hold links to the server's programs only.
	if initdb, err := filepath.EvalSymlinks(filepath.Join(s.bin, "initdb")); err == nil {
		cmd.Path = filepath.Join(filepath.Dir(initdb), program)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, lastLines(out))
	}
	return nil
}

// Addr is the server's address, unchanged by Restart.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL is the address of a database, with the password of the server's owner.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, s.password), Host: s.Addr(), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// Password is the password in URL, for tests that look for it in a log.
func (s *Server) Password() string { return s.password }

// Stop ends every session and shuts the server down; its data stay.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

// Immediate is PostgreSQL's immediate shutdown: no session is told, nothing is
// written. The next start recovers as after a power loss.
func (s *Server) Immediate() error { return s.end(syscall.SIGQUIT) }

// Kill ends the server's first process with SIGKILL. The others notice and end
// by themselves, some of them in the middle of a commit.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) error {
	s.mu.Lock()
	cmd, guard := s.cmd, s.guard
	s.cmd, s.guard = nil, nil
	s.mu.Unlock()
	if cmd == nil {
		return nil
	}
	defer guard.Release()
	if err := errors.Join(cmd.Process.Signal(sig), cmd.Process.Signal(syscall.SIGCONT)); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	timeout := time.AfterFunc(stopTimeout, func() { _ = cmd.Process.Kill() })
	defer timeout.Stop()
	return ignoreExit(cmd.Wait())
}

// ignoreExit drops the exit status of a process that was ended on purpose.
func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// Restart starts the server again with the same data and port; a running one is
// stopped first. After Kill it waits until the last of the old processes is gone.
func (s *Server) Restart() error {
	if err := s.Stop(); err != nil {
		return err
	}
	for deadline := time.Now().Add(startTimeout); ; {
		err := s.start(context.Background())
		if err == nil || time.Now().After(deadline) || !strings.Contains(s.lastLines(), "is still in use") {
			return err
		}
	}
}

// Freeze stops every process of the server with SIGSTOP and returns the function
// that lets them go on, which must be called before the server is ended.
func (s *Server) Freeze(ctx context.Context) (thaw func(), err error) {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	s.mu.Lock()
	first := s.cmd.Process.Pid
	s.mu.Unlock()
	pids := []int{first}
	thaw = func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // it may have ended
		}
	}
	// The first process first: it starts no other from here on.
	if err := syscall.Kill(first, syscall.SIGSTOP); err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
	if err != nil {
		thaw()
		return nil, err
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		thaw()
		return nil, err
	}
	for _, pid := range others {
		if syscall.Kill(pid, syscall.SIGSTOP) == nil {
			pids = append(pids, pid)
		}
	}
	return thaw, nil
}

// Log is what the server has logged.
func (s *Server) Log() (string, error) {
	text, err := os.ReadFile(s.path("server.log"))
	return string(text), err
}

func (s *Server) lastLines() string {
	log, _ := s.Log() // only for an error's text
	return lastLines([]byte(log))
}

func lastLines(log []byte) string {
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}
