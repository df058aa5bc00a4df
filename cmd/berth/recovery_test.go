package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/server"
	"github.com/berthregistry/berth/test/harness"
)

// recoveryRounds is how many rounds TestRecoveryKilled makes: BERTH_RECOVERY_ROUNDS, or 1.
var recoveryRounds = 1

// TestRecoveryKilled kills, at any moment, a server that journals and backs up while clients change its content, then backups, restores and
// rebuilds. Run again, each ends as if it had run once, and everything is compared.
func TestRecoveryKilled(t *testing.T) {
	harness.Binary(t)               // which other tests use, too, so it is not made in the folder of this one
	t.Setenv("TMPDIR", t.TempDir()) // where what is killed leaves files
	data, place := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "backup")
	s, err := harness.StartServer(harness.Binary(t), t.TempDir(), harness.Settings{
		Args: []string{"--data", data},
		Env:  []string{"BERTH_JOURNAL_INTERVAL=100ms", "BERTH_BACKUP_TO=" + place, "BERTH_BACKUP_INTERVAL=1s", "BERTH_BACKUP_KEEP=3", "BERTH_COLLECTION_INTERVAL=1s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Kill() }()
	pushed := &movedImages{images: make(map[string]harness.Image)}
	for round := range recoveryRounds {
		clients := pushed.pushes(t, s, 2)
		clients.Go(func() { changesTags(t, s) })
		for had, begun := pushed.count(), time.Now(); pushed.count() < had+5; time.Sleep(20 * time.Millisecond) {
			if time.Since(begun) > 10*patience {
				t.Fatalf("nothing is pushed; the server's log ends with\n%s", s.LogTail())
			}
		}
		time.Sleep(rand.N(1500 * time.Millisecond))
		s.Kill()
		clients.Wait()
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		pushed.pullAtLeast(t, s)
		had := journalled(t, data)
		time.Sleep(rand.N(300 * time.Millisecond))
		s.Kill()

		complete := func(args ...string) {
			t.Helper()
			for range 2 {
				if killed(t, rand.N(900*time.Millisecond), args...) {
					return
				}
			}
			if !killed(t, time.Hour, args...) {
				t.Fatalf("berth %s takes an hour", strings.Join(args, " "))
			}
		}
		complete("backup", "create", "--to", place, "--data", data)
		if out, err := berthCommand(t, "backup", "verify", "--from", place, "--deep"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		other := filepath.Join(t.TempDir(), "other")
		complete("restore", "--from", place, "--data", other)
		wantContent(t, had, other)
		loseSQLite(t, data)
		complete("rebuild", "--data", data)
		wantContent(t, had, data)
		if err := os.RemoveAll(other); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		pushed.pullAtLeast(t, s)
		t.Logf("round %d: %d images, %d records", round, len(pushed.images), len(had))
	}
}

// changesTags moves and deletes tags, and deletes manifests, until the server is gone.
func changesTags(t *testing.T, s *harness.Server) {
	a := harness.NewAPI(t, s)
	for i := 0; ; i++ {
		image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, harness.Random(20)))
		b, path := image.Blobs[0], "/v2/moving/app/"
		type request struct {
			method, path string
			body         []byte
		}
		for _, r := range []request{
			{"POST", path + "blobs/uploads/?digest=" + b.Digest.String(), b.Bytes},
			{"PUT", path + "manifests/" + fmt.Sprint("t", i%3), image.Manifest.Bytes},
			{"DELETE", path + "manifests/" + []string{"t1", image.Manifest.Digest.String(), "none"}[rand.N(3)], nil},
		} {
			resp, err := a.Try(context.Background(), r.method, r.path, strings.NewReader(string(r.body)), harness.Header{"Content-Type": image.Manifest.MediaType})
			if err != nil || resp.StatusCode >= 500 {
				return
			}
			if resp.StatusCode >= 400 && resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s: %d %s", r.method, r.path, resp.StatusCode, resp.Bytes)
				return
			}
		}
	}
}

// journalled waits until the journal has everything that a registry has, and returns that.
func journalled(t *testing.T, data string) []string {
	t.Helper()
	db := openContent(t, data)
	defer db.Close()
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		state, err := db.JournalState(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		since, err := db.JournalWaits(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if since.IsZero() && strings.Contains(string(state), `"complete":true`) {
			return content(t, db)
		}
		if time.Since(begun) > 10*patience {
			t.Fatalf("the journal is behind: %s, since %s", state, since)
		}
	}
}

func openContent(t *testing.T, data string) *meta.DB {
	t.Helper()
	db, err := meta.OpenReadOnly(t.Context(), server.DatabaseFile(data), meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// content returns all repositories, links, manifests, tags and moves of tags, as lines in order. Objects have other keys in each storage.
func content(t *testing.T, db *meta.DB) (lines []string) {
	t.Helper()
	var place meta.JournalPlace
	for done := false; !done; {
		var records []meta.JournalRecord
		var err error
		if records, place, done, err = db.JournalCheckpoint(t.Context(), place); err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			r.Key, r.ID = "", 0
			line, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, string(line))
		}
	}
	slices.Sort(lines)
	return lines
}

// wantContent fails the test unless a registry has exactly this, and all bytes.
func wantContent(t *testing.T, had []string, data string) {
	t.Helper()
	if out, err := berthCommand(t, "fsck", "--data", data, "--deep"); err != nil || !strings.Contains(out, "damaged: 0") {
		t.Errorf("%v\n%s", err, out)
	}
	db := openContent(t, data)
	defer db.Close()
	has := content(t, db)
	for _, line := range had {
		if _, found := slices.BinarySearch(has, line); !found {
			t.Errorf("lost: %s", line)
		}
	}
	for _, line := range has {
		if _, found := slices.BinarySearch(had, line); !found {
			t.Errorf("new: %s", line)
		}
	}
}
