//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args    string
		servers string
		whole   bool
	}{
		{"", "berth registry nginx limit", true},
		{"--quick", "berth registry nginx limit", false},
		{"--only storm,mount", "berth registry nginx limit", false},
		{"--servers limit,berth", "berth limit", false},
		{"--peer zot=/bin/true", "berth registry nginx limit zot", true},
	} {
		o, err := parse(strings.Fields(c.args))
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		if got := strings.Join(o.servers, " "); got != c.servers || o.whole() != c.whole {
			t.Errorf("%s: servers %s, whole %v", c.args, got, o.whole())
		}
	}
	for _, args := range []string{"--only no-such", "--servers zit", "--peer zot", "--peer zit=/x", "storm"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%s: no error", args)
		}
	}
}

func TestLeftoversOfDeadRunsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	alive := fmt.Sprintf("run-%d", os.Getpid())
	// No process has a number above the kernel's largest limit.
	for _, name := range []string{"run-4194305", alive, "other"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "servers"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeLeftovers(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want := []string{"other", alive}; !slices.Equal(got, want) {
		t.Errorf("folders are %v, want %v", got, want)
	}
}

// The page in the tree must have a place for figures, or a whole run ends in an error.
func TestThePageHasAPlaceForFigures(t *testing.T) {
	page, err := os.ReadFile("../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	from, to := strings.Index(string(page), "<!-- figures -->"), strings.Index(string(page), "<!-- /figures -->")
	if from < 0 || to < from {
		t.Errorf("markers are at %d and %d", from, to)
	}
	for _, name := range []string{"pulls", "tokens", "revocation", "scale"} {
		if !strings.Contains(string(page), "<!-- figures: access-"+name+" -->") {
			t.Errorf("there is no place for access-%s", name)
		}
	}
}
