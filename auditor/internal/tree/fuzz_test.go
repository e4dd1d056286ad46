package tree

import (
	"strings"
	"testing"
)

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"tile/0/000", "tile/entries/x001/234.p/17", "tile/63/999", "tile/8/0/000", "tile/data/000", "tile/0/x000/000", "tile/-1/000", "tile/0/000.p/256"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tile, err := ParsePath(s)
		if err != nil {
			return
		}
		if Path(tile) != s || strings.Contains(s, "..") || tile.L < entries || tile.L > 63 || tile.W < 1 || tile.W > Width {
			t.Errorf("%q is read as %v", s, tile)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	w := keysOf(f)
	signed, err := Checkpoint{w.Origin(), new(Edge).Tree()}.Sign(w.Signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(signed))
	f.Add("a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := OpenCheckpoint([]byte(s), w.Verifiers...); err == nil && c.N != 0 {
			t.Errorf("a forged checkpoint: %q", s)
		}
		if c, err := ParseCheckpoint(s); err == nil && !strings.HasPrefix(s, c.String()) {
			t.Errorf("%q is read as %q", s, c)
		}
	})
}

func FuzzProof(f *testing.F) {
	w := keysOf(f)
	var e Edge
	e.Append(Leaf([]byte("a\n")))
	signed, err := Checkpoint{w.Origin(), e.Tree()}.Sign(w.Signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(Proof{Index: 0, Checkpoint: signed}.String())
	f.Add(proofHeader + "\nextra eA==\nindex 3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" + string(signed))
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseProof(s)
		if err != nil {
			return
		}
		if _, err := p.Verify([]byte("b\n"), w.Verifiers...); err == nil {
			t.Errorf("%q proves another line", s)
		}
		if !strings.Contains(s, "\nextra ") && p.String() != s {
			t.Errorf("%q is read as %q", s, p)
		}
	})
}

func FuzzKeys(f *testing.F) {
	skey, err := NewKey("a.example")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(skey)
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKeys([]byte(s)); err == nil && (len(k.Verifiers) == 0 || k.Origin() == "") {
			t.Errorf("%q is read as %v", s, k)
		}
		_, _ = ParseWitnesses([]byte(s))
		_, _ = NewWitnessVerifier(s)
	})
}

// FuzzStart: whatever the files of the tree hold, a start over a good log either
// refuses or gives a true tree.
func FuzzStart(f *testing.F) {
	f.Add(uint8(0), 3, []byte("x"))
	f.Fuzz(func(t *testing.T, which uint8, at int, with []byte) {
		w := newWorld(t)
		w.run(300)
		files := append(w.files(), checkpointPath)
		path := files[int(which)%len(files)]
		w.overwrite(path, func(b []byte) []byte {
			at := max(at, -at, 0) % len(b)
			return append(b[:at:at], with...)
		})
		l, err := w.open()
		if err != nil {
			return
		}
		w.through(l, func() { l.Append(w.write(1)) })
		if _, c := w.checkpoint(); l.Fault() == nil && c.Hash != root(w.lines) {
			t.Errorf("%s: a false root was signed", path)
		}
	})
}

func keysOf(f *testing.F) *Keys {
	skey, err := NewKey("")
	if err != nil {
		f.Fatal(err)
	}
	k, err := ParseKeys([]byte(skey))
	if err != nil {
		f.Fatal(err)
	}
	return k
}
