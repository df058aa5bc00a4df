//go:build bench && linux

package collection

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	peerBlobs   = flag.Int("peer-blobs", 20_000, "how many blobs the store of the reference registry has, a hundredth of them garbage; 0 to leave it out")
	peerProgram = flag.String("peer", "../../.cache/bin/registry", "the reference registry's program")
)

// TestReferenceRegistry lets the reference registry collect garbage. It marks all that manifests name, and looks at every blob.
func TestReferenceRegistry(t *testing.T) {
	if *peerBlobs == 0 {
		t.Skip("left out")
	}
	dir := t.TempDir()
	spare := max(1, *peerBlobs/100)
	filled := time.Now()
	fillPeer(t, dir, *peerBlobs, spare)
	t.Logf("%d blobs were made in %s", *peerBlobs, time.Since(filled).Round(time.Second))
	config := filepath.Join(t.TempDir(), "registry.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %q}\n  delete: {enabled: true}\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"with garbage", "with nothing to do"} {
		cmd := exec.Command(*peerProgram, "garbage-collect", "--quiet", config)
		cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		start := time.Now()
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v\n%s", err, out.Bytes())
		}
		// The system's peak of its memory begins with that of this process, so nothing can be said of it.
		t.Logf("registry garbage-collect %s: %s, %s of processor time", what, time.Since(start).Round(time.Millisecond),
			(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Round(time.Millisecond))
		manifests := max(1, *peerBlobs/each)
		if left, want := countPeer(t, dir), *peerBlobs-spare+manifests; left != want {
			t.Fatalf("%d blobs are left, expected %d", left, want)
		}
	}
}

// fillPeer makes a store as the reference registry has it: a repository for every thousand blobs, whose only manifest names those that are no garbage.
func fillPeer(t *testing.T, dir string, n, spare int) {
	t.Helper()
	root := filepath.Join(dir, "docker", "registry", "v2")
	put := func(body string, path ...string) {
		file := filepath.Join(append([]string{root}, path...)...)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(body string) (digest string) {
		sum := sha256.Sum256([]byte(body))
		digest = hex.EncodeToString(sum[:])
		put(body, "blobs", "sha256", digest[:2], digest, "data")
		return digest
	}
	repositories := max(1, n/each)
	for r := range repositories {
		name := filepath.Join("repositories", "fill", fmt.Sprint(r))
		var layers []string
		for i := r; i < n; i += repositories {
			body := fmt.Sprint("blob ", i)
			digest := blob(body)
			put("sha256:"+digest, name, "_layers", "sha256", digest, "link")
			if i >= spare {
				layers = append(layers, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":%d,"digest":"sha256:%s"}`, len(body), digest))
			}
		}
		if len(layers) == 0 {
			t.Fatalf("of %d blobs, %d may be garbage at most", n, n-repositories)
		}
		manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}`, layers[0], strings.Join(layers[1:], ","))
		digest := blob(manifest)
		put("sha256:"+digest, name, "_manifests", "revisions", "sha256", digest, "link")
		put("sha256:"+digest, name, "_manifests", "tags", "latest", "current", "link")
		put("sha256:"+digest, name, "_manifests", "tags", "latest", "index", "sha256", digest, "link")
	}
}

// countPeer returns how many blobs the store has.
func countPeer(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "docker", "registry", "v2", "blobs"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "data" {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
