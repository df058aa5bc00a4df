package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/fsck"
)

// program runs berth to its end and returns what it wrote, stderr last, and its exit code.
func program(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, plain.Get(t), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("berth %v did not end\n%s%s", args, &stdout, &stderr)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return stdout.String() + stderr.String(), cmd.ProcessState.ExitCode()
}

// wantRefusal fails the test unless a server refuses to start on a data folder and says why.
func wantRefusal(t *testing.T, dir string, why ...string) {
	t.Helper()
	out, code := program(t, "serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "data"))
	if code == 0 {
		t.Errorf("the server started: %s", out)
	}
	for _, w := range why {
		if !strings.Contains(out, w) {
			t.Errorf("expected %q in: %s", w, out)
		}
	}
	if strings.Contains(out, "goroutine ") || strings.Count(strings.TrimSpace(out), "\n") > 3 {
		t.Errorf("this is no message for people: %s", out)
	}
}

// check runs fsck on a data folder.
func check(t *testing.T, dir string, flags ...string) (fsck.Report, []fsck.Finding) {
	t.Helper()
	out, code := program(t, append([]string{"fsck", "--json", "--data", filepath.Join(dir, "data")}, flags...)...)
	var found []fsck.Finding
	var report fsck.Report
	sawReport := false
	for line := range strings.Lines(out) {
		switch {
		case strings.Contains(line, `"damaged":`):
			sawReport = json.Unmarshal([]byte(line), &report) == nil
		case strings.HasPrefix(line, "{"):
			var f fsck.Finding
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			found = append(found, f)
		}
	}
	if !sawReport || (code != 0) != (report.Damaged > 0) {
		t.Fatalf("berth fsck %v: exit code %d\n%s", flags, code, out)
	}
	return report, found
}
