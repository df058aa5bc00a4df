package cluster

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// skewed builds berth with a wall clock that is off by the seconds that CLOCK_SKEW names, in a process that has this variable.
//
// Go programs read the clock without the C library, so that nothing can be put in between when they run; and the kernel's time
// namespaces leave the wall clock alone. So time.Now of the standard library is changed at build time; nothing else is.
func skewed(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(string(bytes.TrimSpace(root)), "src", "time")
	b, err := os.ReadFile(filepath.Join(folder, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	text := string(b)
	if strings.Count(text, now) != 1 {
		t.Fatal("time.Now of this version of Go is another one than this test knows")
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"time.go": strings.Replace(text, now, now+"\tsec += clockSkew\n", 1),
		"skew.go": `package time

import "syscall"

var clockSkew = func() (n int64) {
	s, _ := syscall.Getenv("CLOCK_SKEW")
	negative := len(s) > 0 && s[0] == '-'
	for _, c := range s {
		if '0' <= c && c <= '9' {
			n = n*10 + int64(c-'0')
		}
	}
	if negative {
		n = -n
	}
	return n
}()
`,
		"overlay.json": string(harness.JSON(map[string]any{"Replace": map[string]string{
			filepath.Join(folder, "time.go"):       filepath.Join(dir, "time.go"),
			filepath.Join(folder, "clock_skew.go"): filepath.Join(dir, "skew.go"),
		}})),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "berth")
	cmd := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", out, "./cmd/berth")
	cmd.Dir = harness.Root()
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, text)
	}
	return out
}

// The clocks of the nodes are minutes apart: clients notice nothing, uploads go on from node to node, and the collectors
// take nothing away that is needed.
func TestClocksApart(t *testing.T) {
	t.Parallel()
	c := start(t, options{
		binary: skewed(t),
		env:    []string{"BERTH_COLLECTION_INTERVAL=1s", "BERTH_COLLECTION_GRACE=1h", "BERTH_UPLOADS_EXPIRE=1h"},
		node:   func(i int) []string { return []string{"CLOCK_SKEW=" + []string{"-420", "0", "420"}[i]} },
	})
	for i, skew := range []time.Duration{-7 * time.Minute, 0, 7 * time.Minute} {
		date, err := time.Parse(time.RFC1123, c.at(i).Do("GET", "/v2/", nil).Header.Get("Date"))
		if off := time.Until(date) - skew; err != nil || off.Abs() > 2*time.Minute {
			t.Fatalf("the clock of node %d is %s, which is off by %s (%v): this tests nothing", i, date, off, err)
		}
	}
	l := pushAndPull(t, c.api(), 4, name("clock"), 14, noFaults)
	for k, u := range chunks {
		t.Run(u.name, func(t *testing.T) { c.wander(t, name("clock-wander-%d", k), u.sizes, "PUT without a body", nil) })
	}
	time.Sleep(3 * time.Second) // for some passes of the collectors
	images := l.end()
	c.verify(images)
	c.fsck("--deep")
}
