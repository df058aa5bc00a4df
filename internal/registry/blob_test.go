package registry_test

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

func (w *world) put(r oci.Repository, b string) oci.Digest {
	w.Helper()
	if err := w.PutBlob(w.Context(), r, digestOf(b), body(b)); err != nil {
		w.Fatal(err)
	}
	return digestOf(b)
}

// Bytes that were lost or changed in length are never given out as the blob; a client that
// asks before a push is told to push, and its push mends the blob everywhere.
func TestDamagedBlob(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"missing":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 3) },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"longer":    func(path string) error { return os.Truncate(path, 100) },
		"folder":    func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d := w.put("app", "bytes")
			w.put("other", "bytes")
			if err := damage(w.path("app", d)); err != nil {
				t.Fatal(err)
			}
			b, err := w.Blob(t.Context(), "app", d)
			if err != nil {
				t.Fatal(err)
			}
			if rd, err := w.OpenBlob(t.Context(), "app", b); err == nil {
				got, err := io.ReadAll(rd)
				rd.Close()
				t.Errorf("the damaged blob is given out as %q, %v", got, err)
			}
			_, err = w.CheckBlob(t.Context(), "app", d)
			wantCode(t, err, oci.CodeBlobUnknown)
			w.put("app", "bytes")
			w.wantBlob("app", "bytes")
			w.wantBlob("other", "bytes")
		})
	}
}

func TestDeleteBlob(t *testing.T) {
	w := newWorld(t)
	d := w.put("app", "bytes")
	w.put("other", "bytes")
	manifest := `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + d.String() + `","size":5},"layers":[]}`
	push := func(r oci.Repository, tag oci.Tag) error {
		_, err := w.PutManifest(t.Context(), registry.Push{Repository: r, Reference: oci.Reference{Tag: tag}, Body: []byte(manifest)})
		return err
	}
	if err := push("app", "1"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, w.DeleteBlob(t.Context(), "app", d, registry.Actor{}), oci.CodeUnsupported)
	if err := w.DeleteBlob(t.Context(), "other", d, registry.Actor{}); err != nil {
		t.Error(err)
	}
	wantCode(t, w.DeleteBlob(t.Context(), "other", d, registry.Actor{}), oci.CodeBlobUnknown)
	wantCode(t, push("other", "1"), oci.CodeManifestBlobUnknown)
	w.wantBlob("app", "bytes")
	if err := w.DeleteManifest(t.Context(), "app", oci.Reference{Digest: digestOf(manifest)}, registry.Actor{Name: "me"}, nil); err != nil {
		t.Error(err)
	}
	if err := w.DeleteBlob(t.Context(), "app", d, registry.Actor{}); err != nil {
		t.Error(err)
	}
	wantCode(t, w.DeleteManifest(t.Context(), "app", oci.Reference{Tag: "1"}, registry.Actor{Name: "me"}, nil), oci.CodeNameUnknown)
}

func TestMountBlob(t *testing.T) {
	w := newWorld(t)
	d := w.put("from", "bytes")
	for _, mount := range []struct {
		from oci.Repository
		d    oci.Digest
		want bool
	}{
		{"from", d, true},
		{"", d, true},
		{"into", d, true}, // by now
		{"nowhere", d, false},
		{"from", digestOf("other"), false},
		{"", digestOf("other"), false},
	} {
		if got, err := w.MountBlob(t.Context(), "into", mount.from, mount.d); got != mount.want || err != nil {
			t.Errorf("mount of %s from %q: %t, %v, expected %t", mount.d, mount.from, got, err, mount.want)
		}
	}
	w.wantBlob("into", "bytes")
	if n := w.files(); n != 1 {
		t.Errorf("%d objects are stored, expected one", n)
	}
}
