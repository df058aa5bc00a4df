package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// metricsOf returns the settings of a server that shows metrics, and what reads one of them, which is "" while there is no answer.
func metricsOf(t *testing.T, settings harness.Settings) (harness.Settings, func(s *harness.Server, name string) string) {
	t.Helper()
	settings.Env = append(settings.Env, "BERTH_METRICS_LISTEN=127.0.0.1:0")
	return settings, func(s *harness.Server, name string) string {
		log := s.Log()
		begins := strings.LastIndex(log, `msg="serving metrics" address=`)
		if begins < 0 {
			return ""
		}
		_, address, _ := strings.Cut(log[begins:], "address=")
		address, _, _ = strings.Cut(address, "\n")
		resp, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return ""
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
				return value
			}
		}
		return ""
	}
}

// pushes pushes images from several clients until the server is gone.
func (m *movedImages) pushes(t *testing.T, s *harness.Server, clients int) *sync.WaitGroup {
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			a := harness.NewAPI(t, s)
			ok := func(method, path string, b []byte, header ...harness.Header) bool {
				resp, err := a.Try(context.Background(), method, path, strings.NewReader(string(b)), header...)
				return err == nil && resp.StatusCode == http.StatusCreated
			}
			for i := 0; ; i++ {
				repo, tag := fmt.Sprintf("team%d/app%d", c, i%5), fmt.Sprintf("v%d", rand.N(1<<40))
				image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, harness.Random(50)),
					harness.NewBlob(v1.MediaTypeImageLayer, harness.Random(rand.N(20_000))))
				for _, b := range image.Blobs {
					if !ok("POST", "/v2/"+repo+"/blobs/uploads/?digest="+b.Digest.String(), b.Bytes) {
						return
					}
				}
				if !ok("PUT", "/v2/"+repo+"/manifests/"+tag, image.Manifest.Bytes, harness.Header{"Content-Type": image.Manifest.MediaType}) {
					return
				}
				m.mu.Lock()
				m.images[repo+":"+tag] = image
				m.mu.Unlock()
			}
		})
	}
	return &group
}

// count returns how many images were acknowledged.
func (m *movedImages) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.images)
}

// pullAtLeast is pull of a server that may have more.
func (m *movedImages) pullAtLeast(t *testing.T, s *harness.Server) {
	t.Helper()
	a := harness.NewAPI(t, s)
	for name, image := range m.images {
		repo, tag, _ := strings.Cut(name, ":")
		if resp := a.Expect(http.StatusOK, "GET", "/v2/"+repo+"/manifests/"+tag, nil); string(resp.Bytes) != string(image.Manifest.Bytes) {
			t.Fatalf("%s is another manifest", name)
		}
		for _, b := range image.Blobs {
			if resp := a.Expect(http.StatusOK, "GET", "/v2/"+repo+"/blobs/"+b.Digest.String(), nil); string(resp.Bytes) != string(b.Bytes) {
				t.Fatalf("blob %s of %s has other bytes", b.Digest, name)
			}
		}
	}
}

// bucketConfig writes a configuration with an empty bucket, and a database in a folder, or an empty one in PostgreSQL.
func bucketConfig(t *testing.T, data, database string) string {
	t.Helper()
	bucket := service.S3(t)
	name := filepath.Join(t.TempDir(), "berth.yaml")
	text := fmt.Sprintf("data: %q\nstorage:\n  s3: {bucket: %q, endpoint: %q, region: %q, access_key_id: %q, secret_access_key: %q, redirect: off}\n",
		data, bucket.Name, bucket.Endpoint, bucket.Region, bucket.AccessKey, bucket.SecretKey)
	if database != "" {
		text += fmt.Sprintf("database: %q\n", database)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestRebuild kills a server while clients push, takes its database away, and makes another one of what is in the storage.
func TestRebuild(t *testing.T) {
	t.Parallel()
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		data := filepath.Join(t.TempDir(), "data")
		testRebuild(t, harness.Settings{Args: []string{"--data", data}}, "--data", data, func() { loseSQLite(t, data) })
	})
	t.Run("bucket", func(t *testing.T) {
		t.Parallel()
		data := filepath.Join(t.TempDir(), "data")
		config := bucketConfig(t, data, "")
		testRebuild(t, harness.Settings{Args: []string{"--config", config, "--data", data}}, "--config", config, func() { loseSQLite(t, data) })
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		config := bucketConfig(t, "", service.Postgres(t).URL)
		testRebuild(t, harness.Settings{Args: []string{"--config", config, "--data", ""}}, "--config", config, func() {
			old, err := os.ReadFile(config)
			if err != nil {
				t.Fatal(err)
			}
			text, _, _ := strings.Cut(string(old), "database: ")
			if err := os.WriteFile(config, fmt.Appendf(nil, "%sdatabase: %q\n", text, service.Postgres(t).URL), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	})
}

func loseSQLite(t *testing.T, data string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(data, "berth.db*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("the database is %v, %v", found, err)
	}
	for _, name := range found {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

func testRebuild(t *testing.T, settings harness.Settings, flag, place string, lose func()) {
	settings, metric := metricsOf(t, settings)
	s, err := harness.StartServer(harness.Binary(t), t.TempDir(), settings)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Kill() }()
	pushed := &movedImages{images: make(map[string]harness.Image)}
	for round := range 2 {
		clients := pushed.pushes(t, s, 3)
		had, known := pushed.count(), 0
		for begun := time.Now(); known < had+20; known = pushed.count() {
			if time.Since(begun) > 10*patience {
				t.Fatalf("only %d images were pushed; the server's log ends with\n%s", known-had, s.LogTail())
			}
			time.Sleep(20 * time.Millisecond)
		}
		pushed.mu.Lock()
		safe := &movedImages{images: make(map[string]harness.Image, known)}
		for name, image := range pushed.images {
			safe.images[name] = image
		}
		pushed.mu.Unlock()
		// Everything that was acknowledged before is in the journal when no change waits that is as old as that.
		begun := time.Now()
		for {
			passed := time.Since(begun) // before the answer is made, which may be long under way
			lag := metric(s, "berth_journal_lag_seconds")
			var seconds float64
			if _, err := fmt.Sscan(lag, &seconds); err == nil && seconds < passed.Seconds()-0.5 {
				break
			}
			if time.Since(begun) > 10*patience {
				t.Fatalf("the journal is %q seconds behind; the server's log ends with\n%s", lag, s.LogTail())
			}
			time.Sleep(50 * time.Millisecond)
		}
		s.Kill()
		clients.Wait()
		lose()
		if round == 0 {
			// What is left must not be taken for a new registry.
			if out, err := berthCommand(t, "serve", "--listen", "127.0.0.1:0", flag, place); err == nil || !strings.Contains(out, "berth rebuild") {
				t.Fatalf("a server without its database: %v\n%s", err, out)
			}
			for range 4 {
				if killed(t, rand.N(400*time.Millisecond), "rebuild", flag, place) {
					break
				}
			}
		}
		out, err := berthCommand(t, "rebuild", flag, place, "--deep")
		if err != nil && !strings.Contains(out, "has content already") { // one that was to be killed was faster
			t.Fatalf("%v\n%s", err, out)
		}
		t.Log(out)
		if out, err := berthCommand(t, "rebuild", flag, place); err == nil || !strings.Contains(out, "has content already") {
			t.Errorf("a rebuild of a registry that is whole: %v\n%s", err, out)
		}
		if out, err := berthCommand(t, "fsck", flag, place, "--deep"); err != nil || !strings.Contains(out, "damaged: 0") {
			t.Errorf("%v\n%s", err, out)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		safe.pullAtLeast(t, s)
		t.Logf("%d images were acknowledged before the journal was looked at, %d in all", known, len(pushed.images))
		pushed = safe
	}
}
