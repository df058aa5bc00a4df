package registry_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

// world is a registry on a real folder and a real database.
type world struct {
	testing.TB
	dir string
	db  *meta.DB
	*registry.Registry
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, dir: t.TempDir()}
	w.open()
	t.Cleanup(func() { w.db.Close() })
	return w
}

// open opens the registry, as a process that starts again does.
func (w *world) open() {
	w.Helper()
	store, err := fs.Open(filepath.Join(w.dir, "blobs"), fs.Options{})
	if err != nil {
		w.Fatal(err)
	}
	if w.db, err = meta.Open(w.Context(), filepath.Join(w.dir, "berth.db"), meta.Options{}); err != nil {
		w.Fatal(err)
	}
	if w.Registry, err = registry.New(w.Context(), w.db, store, registry.Options{
		Sparse: func(oci.Repository) registry.Sparse { return registry.SparseIndex },
		Delete: true, Grace: time.Hour, UploadExpiry: time.Hour,
	}); err != nil {
		w.Fatal(err)
	}
}

// path returns where a blob's bytes are.
func (w *world) path(r oci.Repository, d oci.Digest) string {
	w.Helper()
	b, err := w.Blob(w.Context(), r, d)
	if err != nil {
		w.Fatal(err)
	}
	return filepath.Join(w.dir, "blobs", b.Key)
}

// files returns how many objects are stored.
func (w *world) files() (n int) {
	w.Helper()
	err := filepath.WalkDir(filepath.Join(w.dir, "blobs"), func(_ string, e os.DirEntry, err error) error {
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

// body is what a client sends, with no offset given.
func body(b string) registry.Body { return bodyAt(-1, b) }

func bodyAt(first int64, b string) registry.Body {
	return registry.Body{Reader: bytes.NewReader([]byte(b)), First: first, Interrupt: func() {}}
}

// brokenBody sends b and then fails.
func brokenBody(b string) registry.Body {
	r := io.MultiReader(bytes.NewReader([]byte(b)), failing{})
	return registry.Body{Reader: r, First: -1, Interrupt: func() {}}
}

var errBroken = errors.New("the line broke")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

func digestOf(b string) oci.Digest { return oci.DigestBytes(oci.SHA256, []byte(b)) }

func (w *world) begin() registry.Session { return w.StartUpload("app", oci.SHA256, 0) }

// add appends to a session and fails the test unless it has size bytes then.
func (w *world) add(s registry.Session, b registry.Body, size int64) {
	w.Helper()
	if n, err := w.AppendUpload(w.Context(), s, b); err != nil || n != size {
		w.Fatalf("append: %d, %v, expected %d", n, err, size)
	}
}

// wantBlob fails the test unless the repository has exactly these bytes.
func (w *world) wantBlob(r oci.Repository, want string) {
	w.Helper()
	b, err := w.CheckBlob(w.Context(), r, digestOf(want))
	if err != nil {
		w.Error(err)
		return
	}
	rd, err := w.OpenBlob(w.Context(), r, b)
	if err != nil {
		w.Error(err)
		return
	}
	defer rd.Close()
	if got, err := io.ReadAll(rd); err != nil || string(got) != want || b.Size != int64(len(want)) {
		w.Errorf("blob %s is %q, %v, expected %q", b.Digest, got, err, want)
	}
}

// wantCode fails the test unless err has the code.
func wantCode(t testing.TB, err error, code oci.Code) {
	t.Helper()
	if e, ok := errors.AsType[*oci.Error](err); !ok || e.Code != code {
		t.Errorf("got %v, expected %s", err, code)
	}
}

// wantOffset fails the test unless err says that the upload has size bytes.
func wantOffset(t testing.TB, err error, size int64) {
	t.Helper()
	if e, ok := errors.AsType[*registry.OffsetError](err); !ok || e.Size != size {
		t.Errorf("got %v, expected that the upload has %d bytes", err, size)
	}
}
