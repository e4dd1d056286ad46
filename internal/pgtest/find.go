package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
)

const oldest = 15

const advice = "install PostgreSQL 15 or newer (Debian: postgresql, Homebrew: postgresql@15), or put its initdb and postgres on the PATH"

// places are where packages put programs that they leave off the PATH.
var places = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                   // Fedora, Red Hat
	"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew on ARM
	"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
}

// find returns the folder of initdb and postgres: that of the PATH, else the
// newest of the places.
func find(ctx context.Context) (string, error) {
	var folders []string
	if initdb, err := exec.LookPath("initdb"); err == nil {
		folders = append(folders, filepath.Dir(initdb))
	}
	var installed []string
	for _, p := range places {
		found, err := filepath.Glob(p)
		if err != nil {
			return "", err
		}
		installed = append(installed, found...)
	}
	slices.Sort(installed)
	slices.Reverse(installed)
	tooOld := ""
	for _, dir := range append(folders, installed...) {
		version, err := release(ctx, dir)
		switch {
		case err != nil:
			continue // no server here, only clients
		case version >= oldest:
			return dir, nil
		}
		tooOld = fmt.Sprintf(" (%s has %d)", dir, version)
	}
	return "", errors.New("no PostgreSQL server found" + tooOld + ": " + advice)
}

// release is the major version of the server in dir.
func release(ctx context.Context, dir string) (int, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`\) (\d+)`).FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s/postgres does not print its version", dir)
	}
	return strconv.Atoi(string(m[1]))
}

// account returns whom the server runs as, nil for the user of this process:
// initdb and postgres refuse root.
func account() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody: run the tests as another user")
}
