//go:build linux

package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func maker(t *testing.T) *Maker {
	t.Helper()
	m, err := NewMaker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// What a streamed push carries must be the blob itself, whatever its length.
func TestStreamedIsTheBlob(t *testing.T) {
	m := maker(t)
	for _, size := range []int64{100, chunkSize, chunkSize + 5, 3*chunkSize + 7, blockSize, 2*blockSize + chunkSize + 1} {
		b := m.Layer("blob", size)
		if b.Body.Len() != size {
			t.Errorf("size %d: body of %d bytes", size, b.Body.Len())
		}
		var wire bytes.Buffer
		if _, err := m.Streamed(b).WriteTo(&wire); err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		n, err := io.Copy(h, httputil.NewChunkedReader(&wire))
		if err != nil || n != size {
			t.Errorf("size %d: %d bytes, %v", size, n, err)
		}
		if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != b.Digest {
			t.Errorf("size %d: digest %s, want %s", size, got, b.Digest)
		}
	}
}

func TestImagesDifferAndAreSound(t *testing.T) {
	m := maker(t)
	seen := make(map[string]bool)
	for i := range 3 {
		img := m.Image(fmt.Sprintf("image %d", i), 2<<10, 16<<10, 16<<10)
		for _, b := range img.Blobs {
			if seen[b.Digest] {
				t.Errorf("%s occurs twice", b.Digest)
			}
			seen[b.Digest] = true
		}
		var doc struct {
			Config struct {
				Digest string
				Size   int
			}
			Layers []struct{ Digest string }
		}
		if err := json.Unmarshal(img.Manifest, &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Config.Digest != img.Blobs[0].Digest || doc.Config.Size != 2<<10 || len(doc.Layers) != 2 || doc.Layers[1].Digest != img.Blobs[2].Digest {
			t.Errorf("manifest %s does not describe its blobs", img.Manifest)
		}
		var config bytes.Buffer
		img.Blobs[0].Body.WriteTo(&config)
		if !json.Valid(config.Bytes()) {
			t.Errorf("config is not JSON: %.200s", &config)
		}
	}
}

func TestFilesAreWhereTheProtocolSaysThem(t *testing.T) {
	set, err := NewSet(Sizes{})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	dir := t.TempDir()
	part := set.Small()
	if err := part.Write(dir); err != nil {
		t.Fatal(err)
	}
	for _, b := range part.Blobs {
		content, err := os.ReadFile(filepath.Join(dir, "v2", b.Repository, "blobs", b.Digest))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		if !strings.HasSuffix(b.Digest, hex.EncodeToString(sum[:])) {
			t.Errorf("%s holds other bytes", b.Digest)
		}
	}
	for _, m := range part.Manifests {
		content, err := os.ReadFile(filepath.Join(dir, "v2", m.Repository, "manifests", m.Tag))
		if err != nil || !bytes.Equal(content, m.Body) {
			t.Errorf("%s:%s: %q, %v", m.Repository, m.Tag, content, err)
		}
	}
}
