package gc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

// world is a registry with its collector, on a real folder and a real database.
type world struct {
	testing.TB
	dir       string // of the blobs
	db        *meta.DB
	reg       *registry.Registry
	collector *gc.Collector
}

func newWorld(t testing.TB, grace, expiry time.Duration) *world {
	t.Helper()
	return newWorldOn(t, filepath.Join(t.TempDir(), "berth.db"), grace, expiry)
}

// newWorldOn makes a world of the database.
func newWorldOn(t testing.TB, database string, grace, expiry time.Duration) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{TB: t, dir: filepath.Join(dir, "blobs")}
	store, err := fs.Open(w.dir, fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w.db, err = meta.Open(t.Context(), database, meta.Options{}); err != nil {
		t.Fatal(err)
	}
	if w.reg, err = registry.New(t.Context(), w.db, store, registry.Options{
		Sparse: func(oci.Repository) registry.Sparse { return registry.SparseIndex },
		Delete: true, Grace: grace, UploadExpiry: expiry,
	}); err != nil {
		t.Fatal(err)
	}
	w.collector = gc.New(w.db, store, gc.Options{
		Log: slog.New(slog.DiscardHandler), Grace: grace, UploadExpiry: expiry,
	})
	return w
}

// close must be called within a bubble of fake time, where there is one.
func (w *world) close() {
	if err := w.db.Close(); err != nil {
		w.Error(err)
	}
}

func (w *world) collect() gc.Result {
	w.Helper()
	res, err := w.collector.Collect(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return res
}

// body is what a client sends.
func body(b []byte) registry.Body {
	return registry.Body{Reader: bytes.NewReader(b), First: -1, Interrupt: func() {}}
}

func digestOf(b []byte) oci.Digest { return oci.DigestBytes(oci.SHA256, b) }

func (w *world) push(r oci.Repository, b []byte) oci.Digest {
	w.Helper()
	d := digestOf(b)
	if err := w.reg.PutBlob(w.Context(), r, d, body(b)); err != nil {
		w.Fatal(err)
	}
	return d
}

// image makes a manifest of blobs; the first is its config.
func image(note string, blobs ...oci.Digest) []byte {
	descriptors := make([]oci.Descriptor, len(blobs))
	for i, d := range blobs {
		descriptors[i] = oci.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: 1}
	}
	b, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "config": descriptors[0], "layers": descriptors[1:],
		"annotations": map[string]string{"note": note},
	})
	if err != nil {
		panic(err)
	}
	return b
}

func (w *world) tryTag(r oci.Repository, tag string, manifest []byte) (oci.Digest, error) {
	d := digestOf(manifest)
	p := registry.Push{Repository: r, Reference: oci.Reference{Digest: d}, ContentType: oci.MediaTypeImage, Body: manifest, Actor: registry.Actor{Name: "test"}}
	if tag != "" {
		p.Reference = oci.Reference{Tag: oci.Tag(tag)}
	}
	_, err := w.reg.PutManifest(w.Context(), p)
	return d, err
}

func (w *world) tag(r oci.Repository, tag string, manifest []byte) oci.Digest {
	w.Helper()
	d, err := w.tryTag(r, tag, manifest)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

func (w *world) deleteManifest(r oci.Repository, d oci.Digest) {
	w.Helper()
	if err := w.reg.DeleteManifest(w.Context(), r, oci.Reference{Digest: d}, registry.Actor{Name: "test"}, nil); err != nil {
		w.Fatal(err)
	}
}

// read returns a blob's bytes, or an error.
func (w *world) read(r oci.Repository, d oci.Digest) ([]byte, error) {
	b, err := w.reg.Blob(w.Context(), r, d)
	if err != nil {
		return nil, err
	}
	rd, err := w.reg.OpenBlob(w.Context(), r, b)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	return io.ReadAll(rd)
}

// want fails the test unless the repository has the blob, or has it not.
func (w *world) want(r oci.Repository, b []byte, there bool) {
	w.Helper()
	got, err := w.read(r, digestOf(b))
	switch {
	case there && (err != nil || !bytes.Equal(got, b)):
		w.Errorf("blob %q of %s: got %q, %v", b, r, got, err)
	case !there && !unknown(err):
		w.Errorf("blob %q of %s: got %q, %v, expected that it is unknown", b, r, got, err)
	}
}

func unknown(err error) bool {
	e, ok := errors.AsType[*oci.Error](err)
	return ok && (e.Code == oci.CodeBlobUnknown || e.Code == oci.CodeBlobUploadUnknown)
}

// files returns how many objects are stored.
func (w *world) files() (n int) {
	w.Helper()
	err := filepath.WalkDir(w.dir, func(_ string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return n
}

func (w *world) wantFiles(n int) {
	w.Helper()
	if got := w.files(); got != n {
		w.Errorf("%d objects are stored, expected %d", got, n)
	}
}

func (w *world) wantCatalog(want ...string) {
	w.Helper()
	got, err := w.reg.Repositories(w.Context(), "", 1000)
	if err != nil || !slices.Equal(got, want) {
		w.Errorf("the catalog is %v, %v, expected %v", got, err, want)
	}
}

// text returns bytes that are different for each n.
func text(format string, args ...any) []byte { return fmt.Appendf(nil, format, args...) }
