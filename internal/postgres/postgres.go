// Package postgres connects a service to PostgreSQL in the one way in which a
// commit that was answered stays: every session is checked for what would lose
// it, and the schema is the one that the program knows.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// connectTimeout is for a server that takes the connection and says nothing.
	connectTimeout = 5 * time.Second
	// statementTimeout and idleTimeout are enforced by the server: a client that
	// was stopped or cut off in a transaction keeps its locks no longer than that.
	statementTimeout = "10s"
	idleTimeout      = "10s"
	lockTimeout      = "3s"
)

// Config is where a database is and who asks.
type Config struct {
	URL          string // postgres://USER@HOST:PORT/DATABASE?sslmode=...; may hold a password
	PasswordFile string // in the format of .pgpass, read again for each connection; "" for the standard places
	Application  string // how pg_stat_activity names the sessions
}

// Check reports what is wrong with a URL, without repeating any of it: it may hold
// a password.
func Check(rawURL string) error {
	_, err := Config{URL: rawURL}.parse()
	return err
}

var errURL = errors.New("want postgres://USER@HOST:PORT/DATABASE, with ?sslmode=verify-full where the network is not trusted; the password belongs in the file that PGPASSFILE names")

// parse reads the URL and, as every PostgreSQL client does, the PG variables and
// password files for what it leaves open.
func (c Config) parse() (*pgxpool.Config, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.Opaque != "" {
		return nil, errURL
	}
	address := c.URL
	if c.PasswordFile != "" {
		separator := "?"
		if strings.Contains(address, "?") {
			separator = "&"
		}
		address += separator + "passfile=" + strings.ReplaceAll(url.QueryEscape(c.PasswordFile), "+", "%20") // libpq reads no + as a space
	}
	pool, err := pgxpool.ParseConfig(address)
	if err != nil {
		cause := errors.Unwrap(err) // the error itself repeats the URL
		if named := (*url.Error)(nil); cause == nil || errors.As(cause, &named) || leaks(cause, u) {
			return nil, errURL
		}
		return nil, fmt.Errorf("%w: %w", errURL, cause)
	}
	if pool.ConnConfig.Database == "" || pool.ConnConfig.User == "" {
		return nil, errURL
	}
	return pool, nil
}

func leaks(err error, u *url.URL) bool {
	password, _ := u.User.Password()
	return password != "" && strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "://")
}

// config is parse with what every session of ours gets.
func (c Config) config() (*pgxpool.Config, error) {
	p, err := c.parse()
	if err != nil {
		return nil, err
	}
	p.ConnConfig.ConnectTimeout = connectTimeout
	if p.ConnConfig.RuntimeParams["application_name"] == "" {
		p.ConnConfig.RuntimeParams["application_name"] = c.Application
	}
	p.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
		neverCancel(conn)
		now, err := c.parse() // a password that has been replaced
		if err == nil {
			conn.Password = now.ConnConfig.Password
		}
		return err
	}
	p.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return prepare(ctx, conn, false) }
	p.ConnConfig.OnNotice = noteUnconfirmed
	return p, nil
}

// Open returns a pool of at most size sessions after one of them was checked. The
// server must keep what it confirms; a server that is not there yet is an error
// that Unavailable accepts.
func Open(ctx context.Context, c Config, size int32) (*pgxpool.Pool, error) {
	conn, err := Connect(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := conn.Close(ctx); err != nil {
		return nil, err
	}
	config, err := c.config()
	if err != nil {
		return nil, err
	}
	config.MaxConns = size
	return pgxpool.NewWithConfig(ctx, config)
}

// Connect returns a session outside any pool, checked as Open does.
func Connect(ctx context.Context, c Config) (*pgx.Conn, error) {
	config, err := c.config()
	if err != nil {
		return nil, err
	}
	neverCancel(config.ConnConfig)
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, named(err)
	}
	if err := prepare(ctx, conn, true); err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}

// named drops the repetition of user, database and address from pgx's error.
func named(err error) error {
	if e := (*pgconn.ConnectError)(nil); errors.As(err, &e) {
		return fmt.Errorf("connect to PostgreSQL at %s:%d: %w", e.Config.Host, e.Config.Port, errors.Unwrap(err))
	}
	return fmt.Errorf("connect to PostgreSQL: %w", err)
}

// UnsafeError is a server that would lose what it has confirmed.
type UnsafeError struct{ Setting, Advice string }

func (e *UnsafeError) Error() string {
	return fmt.Sprintf("PostgreSQL runs with %s, so a crash would lose what was confirmed; %s", e.Setting, e.Advice)
}

// ErrStandby is a server that takes no changes.
var ErrStandby = errors.New("this PostgreSQL server is a standby and takes no changes; connect to the primary (target_session_attrs=read-write chooses it)")

// prepare checks what the server keeps and sets what belongs to the session. A
// default that an administrator changes to synchronous_commit=off later on does
// not reach a session, because each has set its own.
func prepare(ctx context.Context, conn *pgx.Conn, strict bool) error {
	var commit, fsync string
	var standby bool
	var waiting int
	err := conn.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), current_setting('fsync'), pg_is_in_recovery(),
		(SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = current_user)`).Scan(&commit, &fsync, &standby, &waiting)
	switch {
	case err != nil:
		return fmt.Errorf("read the settings of PostgreSQL: %w", err)
	case fsync != "on":
		return &UnsafeError{"fsync=off", "set fsync=on in postgresql.conf"}
	case commit == "off" && strict:
		return &UnsafeError{"synchronous_commit=off", "set synchronous_commit=on for the server, the database and the role, and take it out of the URL"}
	case standby:
		return ErrStandby
	case waiting >= maxWaiting:
		return ErrNoStandby
	case commit == "off":
		commit = "on"
	}
	_, err = conn.Exec(ctx, `SELECT set_config('synchronous_commit', $1, false), set_config('statement_timeout', $2, false),
		set_config('idle_in_transaction_session_timeout', $3, false), set_config('lock_timeout', $4, false)`,
		commit, statementTimeout, idleTimeout, lockTimeout)
	if err != nil {
		return fmt.Errorf("set up a session of PostgreSQL: %w", err)
	}
	return nil
}
