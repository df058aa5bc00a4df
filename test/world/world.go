// Package world is a registry in this process, on any database and store, with content of every kind. It is for tests of what copies a
// registry or makes it anew: what another one has afterwards is compared fact by fact.
package world

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

// Must fails the test if there is an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// World is a registry as it is served.
type World struct {
	testing.TB
	DB       *meta.DB
	Store    blob.Store
	Registry *registry.Registry
}

// Serve returns the registry of a database and a store, which it does not close. With trash, what is deleted goes there.
func Serve(t testing.TB, db *meta.DB, store blob.Store, trash bool) *World {
	t.Helper()
	Must(t, db.CheckComplete(t.Context()))
	w := &World{TB: t, DB: db, Store: store}
	var err error
	w.Registry, err = registry.New(t.Context(), db, store, registry.Options{
		Sparse: func(r oci.Repository) registry.Sparse {
			if strings.HasPrefix(string(r), "sparse/") {
				return registry.SparseAll
			}
			return registry.SparseIndex
		},
		Delete: true, Grace: time.Hour, UploadExpiry: time.Hour, Trash: trash,
	})
	Must(t, err)
	return w
}

func body(b []byte) registry.Body {
	return registry.Body{Reader: bytes.NewReader(b), First: -1, Interrupt: func() {}}
}

// Descriptor describes bytes of a size.
func Descriptor(mediaType string, d oci.Digest, size int) oci.Descriptor {
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(size)}
}

// DigestOf returns the SHA-256 of bytes.
func DigestOf(b []byte) oci.Digest { return oci.DigestBytes(oci.SHA256, b) }

// Push pushes a blob.
func (w *World) Push(r oci.Repository, b []byte) oci.Descriptor {
	w.Helper()
	d := DigestOf(b)
	Must(w, w.Registry.PutBlob(w.Context(), r, d, body(b)))
	return Descriptor("application/vnd.oci.image.layer.v1.tar", d, len(b))
}

// Image makes a manifest; the first blob is its config.
func Image(fields map[string]any, blobs ...oci.Descriptor) []byte {
	m := map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "config": blobs[0], "layers": blobs[1:]}
	for k, v := range fields {
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// Tester is who changes the content.
var Tester = registry.Actor{Name: "tester"}

// Put pushes a manifest, by its digest and with tags.
func (w *World) Put(ctx context.Context, r oci.Repository, manifest []byte, tags ...oci.Tag) (oci.Descriptor, error) {
	d := DigestOf(manifest)
	var doc struct{ MediaType string }
	Must(w, json.Unmarshal(manifest, &doc))
	_, err := w.Registry.PutManifest(ctx, registry.Push{
		Repository: r, Reference: oci.Reference{Digest: d}, Tags: tags, ContentType: doc.MediaType, Body: manifest, Actor: Tester,
	})
	return Descriptor(doc.MediaType, d, len(manifest)), err
}

// MustPut is Put, which must succeed.
func (w *World) MustPut(r oci.Repository, manifest []byte, tags ...oci.Tag) oci.Descriptor {
	w.Helper()
	d, err := w.Put(w.Context(), r, manifest, tags...)
	Must(w, err)
	return d
}

// Fill pushes one of each kind of content, which depends on the seed.
func (w *World) Fill(seed int) {
	w.Helper()
	for i := range 6 {
		r := oci.Repository(fmt.Sprintf("team%d/app", i%3))
		config := w.Push(r, fmt.Appendf(nil, `{"n":%d,"seed":%d}`, i, seed))
		layer := w.Push(r, bytes.Repeat([]byte{byte(i), byte(seed), 2, 3}, 1<<i))
		empty := w.Push(r, nil)
		foreign := Descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", DigestOf(fmt.Append(nil, i)), 9)
		m := w.MustPut(r, Image(nil, config, layer, empty, foreign), oci.Tag(fmt.Sprint("v", i)), "latest")
		w.MustPut(r, Image(map[string]any{"subject": m, "artifactType": "text/sbom", "annotations": map[string]string{"ä": "ö\u2028<&"}}, config))
		absent := Descriptor(oci.MediaTypeImage, DigestOf([]byte("absent")), 6)
		index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": []any{m, absent}})
		Must(w, err)
		w.MustPut(r, index, "multi")
		w.Push(r, fmt.Append(nil, "spare ", i, seed)) // no manifest needs it
	}
	// A repository that may name what others have, without having it.
	secret := w.Push("other/secret", fmt.Append(nil, "secret ", seed))
	w.MustPut("sparse/app", Image(nil, secret, Descriptor("a/b", DigestOf([]byte("later")), 5)), "1")
	// What is gone.
	gone := w.Push("gone", []byte("gone"))
	d := w.MustPut("gone", Image(nil, gone), "x")
	Must(w, w.Registry.DeleteManifest(w.Context(), "gone", oci.Reference{Digest: d.Digest}, Tester, nil))
	Must(w, w.Registry.DeleteBlob(w.Context(), "gone", gone.Digest, registry.Actor{}))
	Must(w, w.Registry.DeleteManifest(w.Context(), "team1/app", oci.Reference{Tag: "v1"}, Tester, nil))
}

// Pushing pushes images until the function that it returns is called, which waits for the pushes under way. After each one it calls then, with how
// many its client has pushed before. An error of then fails the test.
func (w *World) Pushing(clients int, then func(ctx context.Context, r oci.Repository, manifest oci.Digest, before int) error) (stop func()) {
	ctx, cancel := context.WithCancel(w.Context())
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				r := oci.Repository(fmt.Sprintf("client%d/app%d", c, i%5))
				b := fmt.Append(nil, rand.Uint64())
				d := DigestOf(b)
				m := Image(nil, Descriptor("a/b", d, len(b)))
				err := w.Registry.PutBlob(ctx, r, d, body(b))
				if err == nil {
					_, err = w.Put(ctx, r, m, "latest", oci.Tag(fmt.Sprint("t", rand.N(20))))
				}
				if err == nil {
					err = then(ctx, r, DigestOf(m), i)
				}
				if err != nil && ctx.Err() == nil {
					w.Errorf("push: %v", err)
					return
				}
			}
		})
	}
	return func() {
		cancel()
		group.Wait()
	}
}
