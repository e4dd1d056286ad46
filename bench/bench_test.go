package main

import (
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func sample() *table {
	t := &table{title: "Sample <&>"}
	for _, v := range []float64{50, 100, 400} {
		t.against("rate & more", perSecond, v, 100, atLeast(1))
		t.figure("memory", bytes_, v*(1<<20), atMost(64<<20))
		t.figure("no goal", count, v, none)
		t.figure("of base", count, v, timesBase(2))
	}
	return t
}

func TestTheMedianDecides(t *testing.T) {
	s := sample()
	if r := s.rows[0]; !r.met() || r.verdict() != "met" {
		t.Errorf("ratios %v: %s, want met", r.ratios(), r.verdict())
	}
	if r := s.rows[1]; r.met() || r.verdict() != "missed" {
		t.Errorf("memory %v: %s, want missed", r.values, r.verdict())
	}
	if r := s.rows[2]; r.verdict() != "" {
		t.Errorf("without a goal: %q, want no verdict", r.verdict())
	}
	if r := s.rows[3]; r.verdict() != "" {
		t.Errorf("without a base: %q, want no verdict", r.verdict())
	}
	s.ofBase = true
	s.figure("of base", count, 60, timesBase(2))
	if r := s.rows[3]; r.verdict() != "missed" {
		t.Errorf("100 of a base of 60: %q, want missed", r.verdict())
	}
}

func TestCells(t *testing.T) {
	got := strings.Join(sample().rows[0].cells(""), "|")
	if want := "rate & more|100/s (50/s–400/s)|100/s|1.00 × (0.50 ×–4.00 ×)|≥ 1 ×|met"; got != want {
		t.Errorf("cells = %q, want %q", got, want)
	}
	got = strings.Join(sample().rows[1].cells(""), "|")
	if want := "memory|100 MiB (50 MiB–400 MiB)|||≤ 64 MiB|missed"; got != want {
		t.Errorf("cells = %q, want %q", got, want)
	}
}

func TestAChartIsXML(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(sample().chart()))
	bars := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 2 {
		t.Errorf("%d bars, want one for each of the two rows that have a verdict", bars)
	}
	if empty := (&table{}).chart(); empty != "" {
		t.Errorf("chart of nothing = %q", empty)
	}
}

func TestTextAroundABlockIsKept(t *testing.T) {
	doc := replaceBlock("# Title\n\nBefore.\n", "one", "One", "first\n")
	doc = replaceBlock(doc+"\nBetween.\n", "two", "Two", "second\n")
	doc = replaceBlock(doc, "one", "One", "third\n")
	for _, want := range []string{"# Title\n\nBefore.\n\n## One\n", "third\n", "\nBetween.\n\n## Two\n", "second\n"} {
		if !strings.Contains(doc, want) {
			t.Errorf("document lacks %q:\n%s", want, doc)
		}
	}
	if strings.Contains(doc, "first") || strings.Count(doc, "## ") != 2 {
		t.Errorf("a block was not replaced:\n%s", doc)
	}
}

// The yardstick must be as fast as net/http is: kept connections, a length known
// in advance, nothing posted twice or left out.
func TestThePlainClientIsNotHandicapped(t *testing.T) {
	const n = 2000
	sink := newTarget(0, n)
	defer sink.close()
	_, all := bodies(n, 100)
	c := client(64)
	defer c.CloseIdleConnections()
	if err := postAll(c, 64, sink.URL, structuredType, all, http.StatusNoContent); err != nil {
		t.Fatal(err)
	}
	if events, posts := sink.count(); events != n || posts != n {
		t.Errorf("%d events in %d posts, want %d", events, posts, n)
	}
	if conns := sink.conns.Load(); conns > 64 {
		t.Errorf("%d connections, want at most 64 that are kept", conns)
	}
	if chunked := sink.chunked.Load(); chunked > 0 {
		t.Errorf("%d posts came without a length", chunked)
	}
}

func TestSectionsByName(t *testing.T) {
	all, err := choose(nil)
	if err != nil || len(all) == 0 || len(all) == len(sections) {
		t.Errorf("no name = %d of %d sections, %v; want all but the named ones", len(all), len(sections), err)
	}
	if some, err := choose([]string{"path", "storm"}); err != nil || len(some) != 2 {
		t.Errorf("path storm = %v, %v", some, err)
	}
	if _, err := choose([]string{"brigde"}); err == nil || !strings.Contains(err.Error(), "bridge") {
		t.Errorf("an unknown section: %v, want an error with the names", err)
	}
}
