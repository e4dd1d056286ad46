package browser

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// script brings what the page verifies, in the page, and damages it.
const script = `(async () => {
  const v = await import(document.querySelector("script[src$='/audit.js']").src.replace("audit.js", "verify.js"));
  const get = async (path) => new Uint8Array(await (await fetch("/console/audit/" + path)).arrayBuffer());
  const text = (b) => new TextDecoder().decode(b);
  const seq = 2, line = await get("raw/2"), other = await get("raw/3"), proof = text(await get("proof/2")), key = text(await get("key")).trim();
  const tile = (path) => get("tile/" + path);
  const older = %s;
  const keys = [await v.parseKey(key)];
  const flip = (s, from) => { const at = s.indexOf(from) + from.length; return s.slice(0, at) + (s[at] === "A" ? "B" : "A") + s.slice(at + 1); };
  const flipped = (b, at) => { const c = b.slice(); c[at] ^= 1; return c; };
  const lines = proof.split("\n");
  const without = (n) => lines.filter((_, i) => i !== n).join("\n");
  const good = { seq, line, proof, keys, tile, older: "" };
  const cases = {
    "as it is": {},
    "with an older checkpoint": { older },
    "a byte of the line": { line: flipped(line, 60) },
    "the line feed is gone": { line: line.slice(0, -1) },
    "a line feed more": { line: new Uint8Array([...line, 10]) },
    "another line": { line: other },
    "another number": { seq: 3 },
    "no line": { line: new Uint8Array() },
    "a hash of the proof": { proof: flip(proof, lines[2].slice(0, 5)) },
    "a hash less": { proof: without(2) },
    "a hash more": { proof: proof.replace(lines[2], lines[2] + "\n" + lines[2]) },
    "another index": { proof: proof.replace("index 1", "index 2") },
    "an index that is none": { proof: proof.replace("index 1", "index 01") },
    "no proof": { proof: "" },
    "a page in place of the proof": { proof: "<html>" },
    "the size": { proof: proof.replace(/\n([0-9]+)\n(.*\n\n\u2014)/, (_, n, rest) => "\n" + (Number(n) + 1) + "\n" + rest) },
    "the root": { proof: proof.replace(/\n([^\n]+)\n\n\u2014/, (_, r) => "\n" + (r[0] === "A" ? "B" : "A") + r.slice(1) + "\n\n\u2014") },
    "the signature": { proof: proof.replace(/(\u2014 \S+ \S{20})(\S)/, (_, a, b) => a + (b === "A" ? "B" : "A")) },
    "the origin": { proof: proof.replaceAll("taskwire/audit/", "taskwire/other/") },
    "no signature": { proof: proof.slice(0, proof.indexOf("\u2014")) },
    "an older checkpoint that was changed": { older: older.replace(/\n([0-9]+)\n/, "\n1\n") },
    "a tile": { older, tile: async (path) => flipped(await tile(path), 0) },
    "a tile that is cut": { older, tile: async (path) => (await tile(path)).slice(0, 32) },
  };
  const found = {};
  for (const [name, change] of Object.entries(cases)) {
    try { await v.verify({ ...good, ...change }, () => {}); found[name] = "verified"; }
    catch (e) { found[name] = e instanceof v.Failed ? e.step : "not a verdict: " + e; }
  }
  for (const [name, text] of Object.entries({ "another key": "taskwire/audit/x+5b1f5f2e+AZ8FXoqSGsz0vyZJTHIUn9oXBHBO2cOkNEO9PAQ1UAqm", "a mistyped key": flip(key, "+"), "no key": "hello" })) {
    try { await v.verify({ ...good, keys: [await v.parseKey(text)] }, () => {}); found[name] = "verified"; }
    catch (e) { found[name] = e instanceof v.Failed ? "The key" : "not a verdict: " + e; }
  }
  return found;
})()`

// What is verified is right, and each kind of damage is found at its step, with the
// browser's own cryptography and without it.
func TestVerificationFindsEveryDamage(t *testing.T) {
	t.Parallel()
	s := system(t)
	b := open(t, s.URL("bridge"))
	for i := range 3 {
		create(t, s, fmt.Sprintf("Task %d", i))
	}
	b.visit("/console/audit")
	b.await("covers 3 entries")
	b.visit("/console/audit/entries/3")
	older := must[string](b, `fetch("/console/audit/proof/3").then(r => r.text()).then(t => t.slice(t.indexOf("\n\n") + 2))`)
	for i := range 4 {
		create(t, s, fmt.Sprintf("Later task %d", i))
	}
	b.visit("/console/audit")
	b.await("covers 7 entries")
	want := map[string]string{
		"as it is": "verified", "with an older checkpoint": "verified",
		"a byte of the line": "The root", "the line feed is gone": "The line", "a line feed more": "The root", "another line": "The line", "another number": "The line", "no line": "The line",
		"a hash of the proof": "The root", "a hash less": "The proof", "a hash more": "The proof", "another index": "The proof", "an index that is none": "The proof", "no proof": "The proof",
		"a page in place of the proof": "The proof", "the size": "The signature", "the root": "The root", "the signature": "The signature", "the origin": "The signature", "no signature": "The signature",
		"an older checkpoint that was changed": "The older checkpoint", "a tile": "The older checkpoint", "a tile that is cut": "The older checkpoint",
		"another key": "The key", "a mistyped key": "The key", "no key": "The key",
	}
	for _, own := range []string{"", `Object.defineProperty(crypto, "subtle", {value: undefined});`} {
		b.visit("/console/audit/entries/2")
		must[any](b, own+"0")
		got := must[map[string]string](b, fmt.Sprintf(script, quoted(older)))
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if w := want[name]; got[name] != w {
				t.Errorf("%s (WebCrypto: %v): %q, want %q", name, own == "", got[name], w)
			}
		}
	}
	b.visit("/console/audit/entries/2") // and a person sees it
	b.fill("[name=key]", "taskwire/audit/x+5b1f5f2e+AZ8FXoqSGsz0vyZJTHIUn9oXBHBO2cOkNEO9PAQ1UAqm")
	b.press("Verify")
	b.await("failed: the key")
	b.press("Forget")
	b.fill("[name=checkpoint]", older)
	b.press("Verify")
	b.await("nothing of its 3 entries was changed")
	b.await("verified, with this server's own key")
	b.look("30-entry-compared")
}

// hashes are those of a tree in memory.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = h[at]
	}
	return out, nil
}

// The roots that the page computes from tiles are those of an independent
// implementation, for trees of several levels of tiles.
func TestRootsFromTiles(t *testing.T) {
	t.Parallel()
	s := system(t)
	b := open(t, s.URL("bridge"))
	create(t, s, "One")
	b.visit("/console/audit")
	b.await("covers 1 entry")
	b.visit("/console/audit/entries/1")
	const size = 700
	var tree hashes
	tops := make([]string, size+1)
	for n := range int64(size) {
		added, err := tlog.StoredHashes(n, fmt.Appendf(nil, "leaf %d", n), tree)
		if err != nil {
			t.Fatal(err)
		}
		tree = append(tree, added...)
		top, err := tlog.TreeHash(n+1, tree)
		if err != nil {
			t.Fatal(err)
		}
		tops[n+1] = fmt.Sprintf("%x", top[:])
	}
	for _, size := range []int64{1, 2, 255, 256, 257, 511, 512, 513, 700} {
		tiles := map[string]string{}
		for _, tile := range tlog.NewTiles(8, 0, size) {
			data, err := tlog.ReadTileData(tile, tree)
			if err != nil {
				t.Fatal(err)
			}
			tiles[strings.TrimPrefix(tile.Path(), "tile/8/")] = base64.StdEncoding.EncodeToString(data)
		}
		got := must[[]string](b, fmt.Sprintf(`(async () => {
			const v = await import(document.querySelector("script[src$='/audit.js']").src.replace("audit.js", "verify.js"));
			const tiles = %s, tops = [];
			for (const m of [1, 2, 3, 100, 255, 256, 257, 300, 512, 513, 699, 700].filter(m => m <= %d)) {
				const [o, n] = await v.roots(m, %d, async (path) => { if (!(path in tiles)) throw "no tile " + path; return Uint8Array.from(atob(tiles[path]), c => c.charCodeAt(0)) });
				tops.push(m + " " + v.hex(o) + " " + v.hex(n));
			}
			return tops;
		})()`, object(tiles), size, size))
		for _, line := range got {
			var m int
			var o, n string
			if _, err := fmt.Sscan(line, &m, &o, &n); err != nil || o != tops[m] || n != tops[size] {
				t.Errorf("the roots of %d and %d are %s, want %s %s (%v)", m, size, line, tops[m], tops[size], err)
			}
		}
		if len(got) == 0 {
			t.Errorf("no root over %d leaves", size)
		}
	}
}

func object(m map[string]string) string {
	parts := []string{}
	for k, v := range m {
		parts = append(parts, quoted(k)+":"+quoted(v))
	}
	return "{" + strings.Join(parts, ",") + "}"
}
