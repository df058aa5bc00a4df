package registry_test

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/test/service"
)

// nodes opens two registries over the database of w and one bucket.
func nodes(t *testing.T, w *world) (a, b *world) {
	bucket := service.S3(t)
	node := func() *world {
		store, err := s3.Open(t.Context(), s3.Options{
			Bucket: bucket.Name, Endpoint: bucket.Endpoint, Region: bucket.Region, AccessKeyID: bucket.AccessKey, SecretAccessKey: bucket.SecretKey,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		r, err := registry.New(t.Context(), w.db, store, registry.Options{
			Sparse: func(oci.Repository) registry.Sparse { return registry.SparseIndex },
			Delete: true, Grace: time.Hour, UploadExpiry: time.Hour,
		})
		if err != nil {
			t.Fatal(err)
		}
		return &world{TB: t, db: w.db, Registry: r}
	}
	return node(), node()
}

// Node a loses its client in the middle of a body and does not notice until node b, where the client went on, has
// made a blob of the session. Whatever a does then, the blob stays as it is.
func TestLateNode(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 10<<20/16)
	for name, late := range map[string]func(a *world, s registry.Session, body registry.Body) error{
		"Append": func(a *world, s registry.Session, body registry.Body) error {
			body.Reader = io.MultiReader(body.Reader, failing{})
			_, err := a.AppendUpload(a.Context(), s, body)
			return err
		},
		"Finish": func(a *world, s registry.Session, body registry.Body) error {
			return a.FinishUpload(a.Context(), s, digestOf("one,else"), body)
		},
		"Mismatch": func(a *world, s registry.Session, body registry.Body) error {
			return a.FinishUpload(a.Context(), s, digestOf("nothing"), body)
		},
	} {
		for size, first := range map[string]string{"small": "one,", "large": long} {
			t.Run(name+" "+size, func(t *testing.T) {
				w := newWorld(t)
				a, b := nodes(t, w)
				s := a.begin()
				a.add(s, body(first), int64(len(first)))
				slow, fast := io.Pipe()
				done := make(chan error)
				go func() { done <- late(a, s, registry.Body{Reader: slow, First: -1, Interrupt: func() {}}) }()
				if _, err := fast.Write(slices.Repeat([]byte("el"), 100<<10)); err != nil { // a is at it
					t.Fatal(err)
				}
				if err := b.FinishUpload(t.Context(), s, digestOf(first+"two,three"), body("two,three")); err != nil {
					t.Fatal(err)
				}
				b.wantBlob("app", first+"two,three")
				if _, err := fast.Write([]byte("se")); err != nil {
					t.Fatal(err)
				}
				fast.Close()
				if err := <-done; err == nil {
					t.Error("the late request was acknowledged")
				}
				b.wantBlob("app", first+"two,three")
			})
		}
	}
}
