package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/process"
)

// makeLog writes a log of n entries, with its tree, through the service.
func makeLog(t *testing.T, n int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	extend(t, path, 1, n)
	return path
}

func extend(t *testing.T, path string, from, to int) {
	t.Helper()
	a := start(t, path, nil)
	var batch []string
	for v := from; v <= to; v++ {
		batch = append(batch, body("task.updated", "t", v))
	}
	req, _ := http.NewRequest("POST", a.URL+"/", strings.NewReader("["+strings.Join(batch, ",")+"]"))
	req.Header.Set("Content-Type", "application/cloudevents-batch+json")
	a.expect(a.do(req), 200, `"status":201`)
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
}

// rewrite changes the log on disk. The length that was acknowledged goes with it.
func rewrite(t *testing.T, path string, change func(lines []string) []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := change(strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n"))
	if err := errors.Join(os.WriteFile(path, []byte(strings.Join(lines, "")+"\n"), 0o640), os.RemoveAll(path+".acked")); err != nil {
		t.Fatal(err)
	}
}

func edit(at int) func([]string) []string {
	return func(lines []string) []string {
		lines[at-1] = strings.Replace(lines[at-1], "pending", "PENDING", 1)
		return lines
	}
}

func verifiersOf(t *testing.T, path string) (keys []note.Verifier) {
	t.Helper()
	content, err := os.ReadFile(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	k, err := tree.ParseKeys(content)
	if err != nil {
		t.Fatal(err)
	}
	return k.Verifiers
}

func TestTreeIsServed(t *testing.T) {
	path := makeLog(t, 300)
	a := start(t, path, nil)
	a.expect(a.post(body("task.updated", "t", 301)), 201, `"seq":301`)
	ledgertest.Check(t, path, 301)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	keys := verifiersOf(t, path)
	for _, seq := range []int{301, 1, 256, 257} {
		got := a.get(fmt.Sprintf("%s/proof/%d", a.URL, seq))
		a.expect(got, 200, "c2sp.org/tlog-proof@v1\n")
		p, err := tree.ParseProof(got.Body + "\n")
		if err != nil {
			t.Fatal(err)
		}
		line := bytes.SplitAfter(text, []byte("\n"))[seq-1]
		if c, err := p.Verify(line, keys...); err != nil || c.N != 301 {
			t.Errorf("proof of entry %d in a tree of %d: %v", seq, c.N, err)
		}
	}
	got := a.get(a.URL + "/checkpoint")
	if c, err := tree.OpenCheckpoint([]byte(got.Body+"\n"), keys...); err != nil || c.N != 301 || got.Type != "text/plain; charset=utf-8" {
		t.Errorf("GET /checkpoint: %+v covers %d: %v", got, c.N, err)
	}
	for tile, size := range map[string]int{"tile/0/000": 8192, "tile/0/001.p/45": 45 * 32, "tile/entries/000": 256 * 34, "tile/1/000.p/1": 32, "tile/0/000.p/9": 9 * 32} {
		resp, err := a.Client.Get(a.URL + "/" + tile)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.ContentLength != int64(size) || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") || resp.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("GET /%s: %d, %d bytes, %v", tile, resp.StatusCode, resp.ContentLength, resp.Header)
		}
	}
	for _, missing := range []string{"tile/0/002", "tile/0/0", "tile/data/000", "tile/../audit.log", "tile/%2e%2e/audit.log", "tile/0/000.p/0", "tile/next", "proof/0", "proof/302", "proof/x", "checkpoint.next"} {
		if got := a.get(a.URL + "/" + missing); got.Status != 404 && got.Status != 405 {
			t.Errorf("GET /%s: %d", missing, got.Status)
		}
	}
}

func TestTreeIsPublic(t *testing.T) {
	path := makeLog(t, 3)
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte("reader 0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, url := spawn(t, path, "AUDIT_READ_TOKENS_FILE="+tokens)
	defer p.Terminate()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]int{"/entries": 401, "/checkpoint": 200, "/tile/0/000.p/3": 200, "/proof/3": 200} {
		resp, err := client.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, resp.StatusCode, want)
		}
	}
}

// TestRefusesAnotherLog: what the last lines show is refused at the start, what is
// further back soon after it. Both name the line, and exit with 1.
func TestRefusesAnotherLog(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, path string)
		says   string
	}{
		"edited near the end": {func(t *testing.T, path string) { rewrite(t, path, edit(690)) }, "line 690: the line is not the one that was signed"},
		"edited long ago":     {func(t *testing.T, path string) { rewrite(t, path, edit(5)) }, "line 5: the line is not the one that was signed"},
		"cut": {func(t *testing.T, path string) {
			rewrite(t, path, func(l []string) []string { l[599] = strings.TrimSuffix(l[599], "\n"); return l[:600] })
		},
			"line 601: the log ends after line 600, but 700 lines were signed"},
		"no key": {func(t *testing.T, path string) { os.Remove(path + ".key") }, ".key is missing, and the checkpoint of the log was signed with it"},
		"another key": {func(t *testing.T, path string) {
			key, _ := tree.NewKey("")
			os.WriteFile(path+".key", []byte(key), 0o600)
		}, "the key was replaced"},
		"bad checkpoint": {func(t *testing.T, path string) {
			os.WriteFile(filepath.Join(filepath.Dir(path), "checkpoint"), nil, 0o644)
		}, "malformed note"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := makeLog(t, 700)
			c.change(t, path)
			p := selfProcess(t, path)
			if status := p.Exit(); status != 1 || p.Count(c.says) == 0 {
				t.Errorf("exit %d; want 1 and %q:\n%s", status, c.says, p.Log())
			}
		})
	}
}

// TestTilesAreMadeAgain: they can be lost, all of them, and some of them altered.
func TestTilesAreMadeAgain(t *testing.T) {
	path := makeLog(t, 700)
	dir := filepath.Dir(path)
	for _, damage := range []func() error{
		func() error { return os.RemoveAll(filepath.Join(dir, "tile")) },
		func() error { return os.Remove(filepath.Join(dir, "tile/0/000")) },
		func() error {
			return errors.Join(os.Remove(filepath.Join(dir, "tile/0/000")), os.WriteFile(filepath.Join(dir, "tile/0/000"), bytes.Repeat([]byte{9}, 8192), 0o444))
		},
		func() error { return os.Remove(filepath.Join(dir, "tile/entries/001")) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		a := start(t, path, nil)
		apptest.Await(t, "the tiles are there again", func() bool { status, _ := tool(t, app.Verify(), path); return status == 0 })
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOldLog: a log from before there was a tree gets one.
func TestOldLog(t *testing.T) {
	path := makeLog(t, 600)
	dir := filepath.Dir(path)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "tile")), os.Remove(filepath.Join(dir, "checkpoint")), os.Remove(path+".key")); err != nil {
		t.Fatal(err)
	}
	extend(t, path, 601, 610)
	if status, out := tool(t, app.Verify(), path); status != 0 || !strings.Contains(out, "610 lines are entries, and lines 1 to 610") {
		t.Errorf("verify: %d %s", status, out)
	}
}

// tool runs a subcommand and returns its exit status and output.
func tool(t *testing.T, sub process.Sub, args ...string) (status int, out string) {
	t.Helper()
	return toolWith(t, nil, sub, args...)
}

func toolWith(t *testing.T, settings map[string]string, sub process.Sub, args ...string) (status int, out string) {
	t.Helper()
	var text bytes.Buffer
	err := sub.Run(context.Background(), env.Map(settings), args, &text, &text)
	var usage *process.UsageError
	switch {
	case errors.As(err, &usage):
		status = process.ExitUsage
	case err != nil:
		status = process.ExitFault
	}
	if err != nil {
		fmt.Fprintln(&text, err)
	}
	return status, text.String()
}

func TestTools(t *testing.T) {
	path := makeLog(t, 300)
	dir := filepath.Dir(path)
	old := filepath.Join(dir, "old")
	if signed, err := os.ReadFile(filepath.Join(dir, "checkpoint")); err != nil || os.WriteFile(old, signed, 0o600) != nil {
		t.Fatal(err)
	}
	extend(t, path, 301, 700)
	_, key := tool(t, app.Key(), path)
	key = strings.TrimSpace(key)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, proof := tool(t, app.Prove(), "t-42", path)
	if _, same := tool(t, app.Prove(), "--key", key, "42", path); same != proof {
		t.Errorf("prove t-42 and prove 42 differ:\n%s\n%s", proof, same)
	}
	_, export := tool(t, app.Export(), "--from", "41", "--to", "43", path)
	file := func(name, content string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	lines := strings.SplitAfter(string(text), "\n")
	p42, l42, l43 := file("42.tlog-proof", proof), file("42.json", lines[41]), file("43.json", lines[42])
	_, otherKey := tool(t, app.Key(), "--new")
	keys, err := tree.ParseKeys([]byte(otherKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sub    process.Sub
		args   []string
		status int
		says   string
	}{
		{app.Verify(), []string{path}, 0, "700 lines are entries, and lines 1 to 700 are the ones that taskwire/audit/"},
		{app.Verify(), []string{"--since", old, path}, 0, "ok: lines 1 to 300 are the ones"},
		{app.Verify(), []string{"--key", key, path}, 0, "ok"},
		{app.Verify(), []string{"--key", keys.VKeys[0], path}, 1, "the key was replaced"},
		{app.Verify(), []string{"--key", "x", path}, 2, "want a verifier key"},
		{app.Verify(), []string{path, "more"}, 2, "want verify"},
		{app.Verify(), []string{filepath.Join(dir, "none")}, 2, "no signing key"},
		{app.VerifyProof(), []string{"--key", key, p42, l42}, 0, "ok: line 42 of the 700 lines"},
		{app.VerifyProof(), []string{"--key", key, p42, l43}, 1, "this is not line 42 of the log"},
		{app.VerifyProof(), []string{"--key", keys.VKeys[0], p42, l42}, 1, "the key was replaced"},
		{app.VerifyProof(), []string{"--key", key, l42, l42}, 1, "malformed proof"},
		{app.VerifyProof(), []string{"--key", key, file("export", export)}, 0, "ok: 3 lines with their proofs"},
		{app.VerifyProof(), []string{"--key", key, file("changed", strings.Replace(export, "pending", "gone", 1))}, 1, "line 1 of the export"},
		{app.Prove(), []string{"nobody", path}, 1, "has no entry nobody"},
		{app.Prove(), []string{"701", path}, 1, "has no entry 701"},
		{app.Export(), []string{"--to", "800", path}, 2, "covers entries 1 to 700"},
		{app.Key(), []string{"--new", "a b"}, 2, "want a name without spaces"},
	} {
		if status, out := tool(t, c.sub, c.args...); status != c.status || !strings.Contains(out, c.says) {
			t.Errorf("%s %q: exit %d, %s", c.sub.Name, c.args, status, out)
		}
	}
	rewrite(t, path, edit(42))
	for _, c := range []struct {
		sub  process.Sub
		args []string
		says string
	}{
		{app.Verify(), []string{path}, "audit.log: line 42 (byte "},
		{app.Prove(), []string{"t-42", path}, "audit.log: line 42 (byte "},
		{app.Export(), []string{path}, "audit.log: line 42 (byte "},
	} {
		if status, out := tool(t, c.sub, c.args...); status != 1 || !strings.Contains(out, c.says) {
			t.Errorf("%s of an altered log: exit %d, %s", c.sub.Name, status, out)
		}
	}
	// A line that is no entry is named, whatever was signed.
	rewrite(t, path, func(l []string) []string { l[99] = `{"seq":100,` + "\n"; return l })
	if status, out := tool(t, app.Verify(), path); status != 1 || !strings.Contains(out, "line 100 (byte ") {
		t.Errorf("verify: exit %d, %s", status, out)
	}
}

func TestTreeSettings(t *testing.T) {
	dir := t.TempDir()
	empty, pipe := filepath.Join(dir, "empty"), filepath.Join(dir, "open")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(pipe, []byte("x"), 0o666), os.Chmod(pipe, 0o666)); err != nil {
		t.Fatal(err)
	}
	_, err := app.FromEnv(env.Map(map[string]string{"AUDIT_SIGNING_KEY_FILE": empty, "AUDIT_CHECKPOINT_URL": "ftp://x"}))
	if err == nil || !strings.Contains(err.Error(), "AUDIT_SIGNING_KEY_FILE: "+empty+": holds no signing key") || !strings.Contains(err.Error(), "AUDIT_CHECKPOINT_URL: want an http") {
		t.Errorf("FromEnv: %v", err)
	}
	_, err = app.FromEnv(env.Map(map[string]string{"AUDIT_SIGNING_KEY_FILE": pipe}))
	if err == nil || !strings.Contains(err.Error(), "can be written by its group or others") {
		t.Errorf("FromEnv: %v", err)
	}
	_, err = app.FromEnv(env.Map(map[string]string{"AUDIT_WITNESS_FILE": pipe}))
	if err == nil || !strings.Contains(err.Error(), "line 1: want witness NAME VKEY URL") {
		t.Errorf("FromEnv: %v", err)
	}
}

// TestToolsOnADatabase: the same tools read a log in PostgreSQL.
func TestToolsOnADatabase(t *testing.T) {
	path, db := fileLog(t, 700), pgtest.Start(t)
	if _, err := migrate(t, t.Context(), path, db.URL); err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{"AUDIT_DATABASE_URL": db.URL, "AUDIT_SIGNING_KEY_FILE": path + ".key"}
	a := apptest.Start(t, "auditor", app.FromEnv, app.New, settings)
	conn := db.Connect(t)
	apptest.Await(t, "the tiles are there", func() bool { status, _ := toolWith(t, settings, app.Verify()); return status == 0 })
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	_, want := tool(t, app.Prove(), "42", path)
	file := filepath.Join(t.TempDir(), "42.tlog-proof")
	if err := os.WriteFile(file, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(sub process.Sub, status int, says string, args ...string) {
		t.Helper()
		if got, out := toolWith(t, settings, sub, args...); got != status || !strings.Contains(out, says) {
			t.Errorf("%s %q: exit %d, %s, want %d with %q", sub.Name, args, got, out, status, says)
		}
	}
	check(app.Verify(), 0, "700 lines are entries, and lines 1 to 700")
	check(app.Prove(), 0, "index 41\n", "42")
	check(app.Export(), 0, `{"seq":3,`, "--from", "3", "--to", "3")
	if _, err := conn.Exec(t.Context(), "SET session_replication_role = replica"); err != nil { // as an attacker would: no trigger fires
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "UPDATE audit.entries SET line = convert_to(replace(convert_from(line, 'UTF8'), 'pending', 'PENDING'), 'UTF8') WHERE seq = 42"); err != nil {
		t.Fatal(err)
	}
	check(app.Verify(), 1, "database: line 42 (byte ")
	check(app.Prove(), 1, "database: line 42 (byte ", "42")
	if _, err := conn.Exec(t.Context(), "DELETE FROM audit.entries WHERE seq = 20"); err != nil {
		t.Fatal(err)
	}
	check(app.Verify(), 1, "database: line 20 (byte ")
}
