package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/test/harness"
)

// eventually asks for the status of a job until it is what is waited for.
func eventually[S any](t *testing.T, s *harness.Server, noun string, good func(S) bool) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(300 * time.Millisecond) {
		var status S
		out, err := berthCommand(t, noun, "status", "--json", "--server", s.URL)
		if err == nil {
			err = json.Unmarshal([]byte(out), &status)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if good(status) {
			return
		}
		if time.Since(begun) > 10*patience {
			t.Fatalf("berth %s status: %s", noun, out)
		}
	}
}

// TestBackupOnDemand asks a server on SQLite for a backup while it runs, and has it mend from that what the disk has changed.
func TestBackupOnDemand(t *testing.T) {
	t.Parallel()
	place := filepath.Join(t.TempDir(), "backup")
	s, err := harness.StartServer(harness.Binary(t), t.TempDir(), harness.Settings{Env: []string{"BERTH_BACKUP_TO=" + place}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Kill() }()
	image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, []byte("{}")), harness.NewBlob(v1.MediaTypeImageLayer, harness.Random(20_000)))
	a := harness.NewAPI(t, s)
	a.PushImage("team/app", "1", image)
	ask := func(want string, args ...string) string {
		t.Helper()
		out, err := berthCommand(t, append(args, "--server", s.URL)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("berth %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	if out := ask("Place:", "backup", "status"); !strings.Contains(out, place) || strings.Contains(out, "Last set") {
		t.Errorf("before the first backup: %s", out)
	}
	ask("is paused", "backup", "pause")
	if out, err := berthCommand(t, "backup", "run", "--server", s.URL); err == nil || !strings.Contains(out, "resume it first") {
		t.Errorf("a run while backups are paused: %v\n%s", err, out)
	}
	ask("goes on", "backup", "resume")
	for _, lost := range []int64{0, 1} {
		ask("is asked for", "backup", "run")
		eventually(t, s, "backup", func(s admin.BackupStatus) bool { return s.Last != nil && s.Last.Lost == lost && !s.Asked })
		if out := ask("Last set:", "backup", "status"); !strings.Contains(out, "Blobs lost:") {
			t.Errorf("after a backup: %s", out)
		}
		if lost > 0 {
			break
		}
		// The disk changes a layer, which is mended, and one that is not in the backup.
		objects, err := filepath.Glob(filepath.Join(s.Dir, "data", "blobs", "*", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		rotten := 0
		for _, name := range objects {
			if b, err := os.ReadFile(name); err == nil && bytes.Equal(b, image.Blobs[1].Bytes) {
				b[len(b)/2] ^= 1
				if err := os.WriteFile(name, b, 0o600); err != nil {
					t.Fatal(err)
				}
				rotten++
			}
		}
		if rotten != 1 {
			t.Fatalf("%d of the objects %v are the layer", rotten, objects)
		}
		ask("is asked for", "scrub", "run")
		eventually(t, s, "scrub", func(s admin.ScrubStatus) bool { return s.Last != nil && s.Last.Mended == 1 })
		if resp := a.Expect(http.StatusOK, "GET", "/v2/team/app/blobs/"+image.Blobs[1].Digest.String(), nil); !bytes.Equal(resp.Bytes, image.Blobs[1].Bytes) {
			t.Error("a layer that was mended has other bytes")
		}
		late := harness.NewBlob(v1.MediaTypeImageLayer, harness.Random(30_000))
		a.PushBlob("team/app", late)
		objects, err = filepath.Glob(filepath.Join(s.Dir, "data", "blobs", "*", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range objects {
			if b, err := os.ReadFile(name); err == nil && bytes.Equal(b, late.Bytes) {
				if err := os.WriteFile(name, b[1:], 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	s.Kill()
	other := filepath.Join(t.TempDir(), "other")
	if out, err := berthCommand(t, "restore", "--from", place, "--data", other); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	restored := harness.NewAPI(t, harness.Start(t, harness.Settings{Args: []string{"--data", other}}))
	for _, b := range image.Blobs {
		restored.Expect(http.StatusOK, "GET", "/v2/team/app/blobs/"+b.Digest.String(), nil)
	}

	none := harness.Start(t, harness.Settings{})
	if out, err := berthCommand(t, "backup", "run", "--server", none.URL); err == nil || !strings.Contains(out, "backup.to") {
		t.Errorf("a run where backups have no place: %v\n%s", err, out)
	}
}
