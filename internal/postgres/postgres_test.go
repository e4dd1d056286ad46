package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCheckNeverRepeatsTheURL(t *testing.T) {
	for _, bad := range []string{
		"postgres://u:hidden@h:port/d", "postgres://u:hidden@h/d?sslmode=hidden", "postgres://u:hidden@h/", "postgres:hidden", "mysql://u:hidden@h/d",
		"postgres://u:hid%zzden@h/d", "postgres://u:hidden@h/d?pool_max_conns=hidden", "host=h password=hidden dbname=d", "postgres://hidden\n@h/d",
		"postgres://u:hidden@h/d?connect_timeout=hidden", "postgres://u@h/d?sslrootcert=/nowhere&sslmode=verify-full&password=hidden",
	} {
		err := postgres.Check(bad)
		if err == nil || strings.Contains(err.Error(), "hidden") || !strings.Contains(err.Error(), "want postgres://") || strings.Contains(err.Error(), "\n") {
			t.Errorf("Check(%q) = %v", bad, err)
		}
	}
	for _, good := range []string{"postgres://u:p@h/d", "postgresql://u@h:5433,h2:5434/d?target_session_attrs=read-write", "postgres://u@/d?host=/run/postgresql"} {
		if err := postgres.Check(good); err != nil {
			t.Errorf("Check(%q) = %v", good, err)
		}
	}
}

// A server or role that may lose what it confirms is refused, with the way out.
func TestWhatLosesDataIsRefused(t *testing.T) {
	db := pgtest.Start(t)
	admin := db.Connect(t)
	with := func(option string) string {
		return db.URL + "&options=" + strings.ReplaceAll(url.QueryEscape(option), "+", "%20")
	}
	for address, want := range map[string]string{
		with("-c synchronous_commit=off"):                            "synchronous_commit=off",
		pgtest.StartOwn(t, "fsync=off").URL("postgres"):              "fsync=off",
		pgtest.StartOwn(t, "synchronous_commit=off").URL("postgres"): "synchronous_commit=off",
	} {
		_, err := postgres.Open(t.Context(), postgres.Config{URL: address}, 1)
		var unsafe *postgres.UnsafeError
		if !errors.As(err, &unsafe) || !strings.Contains(err.Error(), want) || postgres.Unavailable(err) {
			t.Errorf("Open with %s = %v", want, err)
		}
	}
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: db.URL}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	setting := func() (value string) {
		t.Helper()
		if err := pool.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&value); err != nil {
			t.Fatal(err)
		}
		return value
	}
	if _, err := admin.Exec(t.Context(), "ALTER ROLE CURRENT_USER IN DATABASE "+strings.Split(strings.Split(db.URL, "/")[3], "?")[0]+" SET synchronous_commit = off"); err != nil {
		t.Fatal(err)
	}
	pool.Reset() // the next session begins with the new default
	if got := setting(); got != "on" {
		t.Errorf("a later session has synchronous_commit=%s", got)
	}
}

// The password may come from a file, and a new one is found without a restart.
func TestAPasswordFileIsReadForEachConnection(t *testing.T) {
	db := pgtest.Start(t)
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(u.User.Username())
	file := filepath.Join(t.TempDir(), "my pgpass")
	write := func(password string) {
		if err := os.WriteFile(file, []byte("127.0.0.1:*:*:"+u.User.Username()+":"+password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := postgres.Config{URL: u.String(), PasswordFile: file}
	write("wrong")
	_, err = postgres.Open(t.Context(), config, 1)
	if postgres.Code(err) != "28P01" || postgres.Unavailable(err) || strings.Contains(err.Error(), "wrong") {
		t.Fatalf("a wrong password: %v", err)
	}
	write(db.Server.Password())
	pool, err := postgres.Open(t.Context(), config, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	write("wrong")
	pool.Reset()
	if err := pool.Ping(t.Context()); postgres.Code(err) != "28P01" {
		t.Errorf("after the password in the file changed: %v", err)
	}
}

func TestWhatIsWorthWaitingFor(t *testing.T) {
	server := pgtest.StartOwn(t, "max_connections=4", "superuser_reserved_connections=0")
	db := server.Database(t)
	config := postgres.Config{URL: db.URL}
	for {
		conn, err := postgres.Connect(t.Context(), config)
		if err != nil {
			if !postgres.Unavailable(err) || postgres.Code(err) != "53300" {
				t.Errorf("no session left: %v", err)
			}
			break
		}
		defer conn.Close(context.WithoutCancel(t.Context())) //nolint:gocritic // four of them
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := postgres.Connect(t.Context(), config)
	if !postgres.Unavailable(err) || strings.Contains(err.Error(), server.Password()) {
		t.Errorf("a server that is down: %v", err)
	}
	for code, want := range map[string]bool{"57P03": true, "57P01": true, "08006": true, "53300": true, "25006": true, "28P01": false, "3D000": false, "42501": false} {
		if got := postgres.Unavailable(&pgconn.PgError{Code: code, Severity: "FATAL"}); got != want {
			t.Errorf("Unavailable(%s) = %v", code, got)
		}
	}
}

func TestRolledBack(t *testing.T) {
	for err, want := range map[error]bool{
		&pgconn.PgError{Severity: "ERROR", Code: "40001"}: true,
		&pgconn.PgError{Severity: "FATAL", Code: "57P01"}: false,
		context.DeadlineExceeded:                          false,
	} {
		if got := postgres.RolledBack(err); got != want {
			t.Errorf("RolledBack(%v) = %v", err, got)
		}
	}
}
