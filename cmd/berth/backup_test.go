package main

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// TestBackup has a server make backups of itself while clients push to it, and restores them; commands are killed again and again.
func TestBackup(t *testing.T) {
	t.Parallel()
	data, place := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "backup")
	s, err := harness.StartServer(harness.Binary(t), t.TempDir(), harness.Settings{
		Args: []string{"--data", data}, Env: []string{"BERTH_BACKUP_TO=" + place, "BERTH_BACKUP_INTERVAL=1s", "BERTH_COLLECTION_INTERVAL=1s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Kill() }()
	pushed := &movedImages{images: make(map[string]harness.Image)}
	pushed.push(ended(), t, s, 10)
	clients := pushed.pushes(t, s, 2)
	for begun := time.Now(); strings.Count(s.Log(), `msg="backed up"`) < 3; time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > 10*patience {
			t.Fatalf("the server makes no backups; its log ends with\n%s", s.LogTail())
		}
	}
	if out, err := berthCommand(t, "backup", "create", "--to", place, "--data", data); err == nil || !strings.Contains(out, "is in use by another server") || !strings.Contains(out, "berth backup run") {
		t.Errorf("a backup of a data folder that is served: %v\n%s", err, out)
	}
	s.Kill()
	clients.Wait()

	// While no server runs.
	for range 4 { // those that come after one that was killed wait for the end of its lease
		killed(t, rand.N(600*time.Millisecond), "backup", "create", "--to", place, "--data", data, "--keep", "5")
	}
	out, err := berthCommand(t, "backup", "create", "--to", place, "--data", data)
	match := regexp.MustCompile(`^Set (\S+): `).FindStringSubmatch(out)
	if err != nil || match == nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
	if out, err := berthCommand(t, "backup", "ls", "--from", place); err != nil || !strings.HasPrefix(out, "SET") || !strings.Contains(out, match[1]) {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := berthCommand(t, "backup", "verify", "--from", place, "--deep"); err != nil || !strings.Contains(out, "damaged: 0") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := berthCommand(t, "backup", "prune", "--from", place, "--keep", "1"); err != nil || !strings.Contains(out, "deleted set ") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := berthCommand(t, "restore", "--from", place, "--at", "2020-01-02T03:04:05Z", "--data", t.TempDir()); err == nil || !strings.Contains(out, "no such set") {
		t.Errorf("a restore to before the first set: %v\n%s", err, out)
	}

	// Everything that was acknowledged, wherever it is restored.
	config := clusterConfig(t)
	other := filepath.Join(t.TempDir(), "other")
	for flag, to := range map[string]string{"--config": config, "--data": other} {
		args := []string{"restore", "--from", place, "--set", match[1], flag, to}
		if !kills(t, 3, args...) {
			if out, err := berthCommand(t, args...); err != nil || !strings.Contains(out, "Restored set "+match[1]) {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		if out, err := berthCommand(t, args...); err == nil || !strings.Contains(out, "has been restored there already") {
			t.Errorf("a second restore: %v\n%s", err, out)
		}
		restored := harness.Start(t, harness.Settings{Args: []string{flag, to}})
		pushed.pullAtLeast(t, restored)
		if out, err := berthCommand(t, "fsck", flag, to, "--deep"); err != nil || !strings.Contains(out, "damaged: 0") {
			t.Errorf("%v\n%s", err, out)
		}
	}

	// A registry of several nodes is backed up beside them, to a bucket.
	bucket := service.S3(t)
	credentials := []string{"AWS_ACCESS_KEY_ID=" + bucket.AccessKey, "AWS_SECRET_ACCESS_KEY=" + bucket.SecretKey}
	remote := fmt.Sprintf("s3://%s/copies?endpoint=%s&region=%s", bucket.Name, url.QueryEscape(bucket.Endpoint), bucket.Region)
	if out, err := berthCommandWith(t, credentials, "backup", "create", "--to", remote, "--config", config); err != nil || !strings.HasPrefix(out, "Set ") {
		t.Fatalf("%v\n%s", err, out)
	}
	third := filepath.Join(t.TempDir(), "third")
	if out, err := berthCommandWith(t, credentials, "restore", "--from", remote, "--data", third, "--deep"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pushed.pullAtLeast(t, harness.Start(t, harness.Settings{Args: []string{"--data", third}}))
}
