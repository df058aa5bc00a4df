package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/fsck"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/test/service"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openDB(t testing.TB, source string) *meta.DB {
	t.Helper()
	db, err := meta.Open(t.Context(), source, meta.Options{Timeout: time.Minute})
	must(t, err)
	t.Cleanup(func() { _ = db.Close() }) // some tests close it themselves
	return db
}

func sqlite(t testing.TB) *meta.DB   { return openDB(t, filepath.Join(t.TempDir(), "berth.db")) }
func postgres(t testing.TB) *meta.DB { return openDB(t, service.Postgres(t).URL) }

func folder(t testing.TB) blob.Store {
	t.Helper()
	store, err := fs.Open(t.TempDir(), fs.Options{})
	must(t, err)
	t.Cleanup(store.Close)
	return store
}

func bucket(t testing.TB) blob.Store {
	t.Helper()
	b := service.S3(t)
	store, err := s3.Open(t.Context(), s3.Options{
		Bucket: b.Name, Endpoint: b.Endpoint, Region: b.Region, Prefix: "registry/", AccessKeyID: b.AccessKey, SecretAccessKey: b.SecretKey,
	})
	must(t, err)
	t.Cleanup(store.Close)
	return store
}

// everywhere runs a test on each pairing of database and store.
func everywhere(t *testing.T, test func(t *testing.T, newDB func(testing.TB) *meta.DB, store blob.Store)) {
	for name, newDB := range map[string]func(testing.TB) *meta.DB{"sqlite": sqlite, "postgres": postgres} {
		for where, newStore := range map[string]func(testing.TB) blob.Store{"folder": folder, "bucket": bucket} {
			t.Run(name+"/"+where, func(t *testing.T) {
				t.Parallel()
				test(t, newDB, newStore(t))
			})
		}
	}
}

// world is a registry as it is served.
type world struct {
	testing.TB
	db    *meta.DB
	store blob.Store
	reg   *registry.Registry
}

func serve(t testing.TB, db *meta.DB, store blob.Store) *world {
	t.Helper()
	must(t, db.CheckComplete(t.Context()))
	w := &world{TB: t, db: db, store: store}
	var err error
	w.reg, err = registry.New(t.Context(), db, store, registry.Options{
		Sparse: func(r oci.Repository) registry.Sparse {
			if strings.HasPrefix(string(r), "sparse/") {
				return registry.SparseAll
			}
			return registry.SparseIndex
		},
		Delete: true, Grace: time.Hour, UploadExpiry: time.Hour, Trash: true,
	})
	must(t, err)
	return w
}

func body(b []byte) registry.Body {
	return registry.Body{Reader: bytes.NewReader(b), First: -1, Interrupt: func() {}}
}

func descriptor(mediaType string, d oci.Digest, size int) oci.Descriptor {
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(size)}
}

func digestOf(b []byte) oci.Digest { return oci.DigestBytes(oci.SHA256, b) }

func (w *world) push(r oci.Repository, b []byte) oci.Descriptor {
	w.Helper()
	d := digestOf(b)
	must(w, w.reg.PutBlob(w.Context(), r, d, body(b)))
	return descriptor("application/vnd.oci.image.layer.v1.tar", d, len(b))
}

// image makes a manifest; the first blob is its config.
func image(fields map[string]any, blobs ...oci.Descriptor) []byte {
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

var tester = registry.Actor{Name: "tester"}

func (w *world) put(ctx context.Context, r oci.Repository, manifest []byte, tags ...oci.Tag) (oci.Descriptor, error) {
	d := digestOf(manifest)
	var doc struct{ MediaType string }
	must(w, json.Unmarshal(manifest, &doc))
	_, err := w.reg.PutManifest(ctx, registry.Push{
		Repository: r, Reference: oci.Reference{Digest: d}, Tags: tags, ContentType: doc.MediaType, Body: manifest, Actor: tester,
	})
	return descriptor(doc.MediaType, d, len(manifest)), err
}

func (w *world) mustPut(r oci.Repository, manifest []byte, tags ...oci.Tag) oci.Descriptor {
	w.Helper()
	d, err := w.put(w.Context(), r, manifest, tags...)
	must(w, err)
	return d
}

// fill pushes one of each kind of content, which depends on the seed.
func (w *world) fill(seed int) {
	w.Helper()
	for i := range 6 {
		r := oci.Repository(fmt.Sprintf("team%d/app", i%3))
		config := w.push(r, fmt.Appendf(nil, `{"n":%d,"seed":%d}`, i, seed))
		layer := w.push(r, bytes.Repeat([]byte{byte(i), byte(seed), 2, 3}, 1<<i))
		empty := w.push(r, nil)
		foreign := descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", digestOf(fmt.Append(nil, i)), 9)
		m := w.mustPut(r, image(nil, config, layer, empty, foreign), oci.Tag(fmt.Sprint("v", i)), "latest")
		w.mustPut(r, image(map[string]any{"subject": m, "artifactType": "text/sbom", "annotations": map[string]string{"ä": "ö\u2028<&"}}, config))
		absent := descriptor(oci.MediaTypeImage, digestOf([]byte("absent")), 6)
		index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": []any{m, absent}})
		must(w, err)
		w.mustPut(r, index, "multi")
		w.push(r, fmt.Append(nil, "spare ", i, seed)) // no manifest needs it
	}
	// A repository that may name what others have, without having it.
	secret := w.push("other/secret", fmt.Append(nil, "secret ", seed))
	w.mustPut("sparse/app", image(nil, secret, descriptor("a/b", digestOf([]byte("later")), 5)), "1")
	// What is gone.
	gone := w.push("gone", []byte("gone"))
	d := w.mustPut("gone", image(nil, gone), "x")
	must(w, w.reg.DeleteManifest(w.Context(), "gone", oci.Reference{Digest: d.Digest}, tester, nil))
	must(w, w.reg.DeleteBlob(w.Context(), "gone", gone.Digest, registry.Actor{}))
	must(w, w.reg.DeleteManifest(w.Context(), "team1/app", oci.Reference{Tag: "v1"}, tester, nil))
}

// pushing pushes images until the function that it returns is called.
func (w *world) pushing(clients int) (stop func()) {
	ctx, cancel := context.WithCancel(w.Context())
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				time.Sleep(10 * time.Millisecond) // what there is to copy grows no faster than it can be copied
				r := oci.Repository(fmt.Sprintf("client%d/app%d", c, i%5))
				b := fmt.Append(nil, rand.Uint64())
				d := digestOf(b)
				m := image(nil, descriptor("a/b", d, len(b)))
				err := w.reg.PutBlob(ctx, r, d, body(b))
				if err == nil {
					_, err = w.put(ctx, r, m, "latest", oci.Tag(fmt.Sprint("t", rand.N(20))))
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

// content returns everything that clients can learn of a registry, a line for each fact. All bytes are read.
func content(t testing.TB, db *meta.DB, store blob.Store) []string {
	t.Helper()
	ctx := t.Context()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	repositories, err := db.Repositories(ctx, "", 10_000)
	must(t, err)
	for _, name := range repositories {
		r := oci.Repository(name)
		tags, err := db.Tags(ctx, r, "", 10_000)
		must(t, err)
		add("%s: %v", r, tags)
		for _, tag := range append(tags, "v1") {
			moves, err := db.TagLog(ctx, r, oci.Tag(tag))
			must(t, err)
			add("%s:%s: %v", r, tag, moves)
			m, err := db.Manifest(ctx, r, oci.Reference{Tag: oci.Tag(tag)}, true)
			if err == nil {
				add("%s:%s: %s", r, tag, m.Digest)
			}
		}
	}
	rows, _, _, err := db.JournalCheckpoint(ctx, meta.JournalPlace{})
	must(t, err)
	for _, r := range rows {
		public := "as its organization"
		if r.Public != nil {
			public = fmt.Sprint(*r.Public)
		}
		add("repository %d %s of %d, public: %s", r.RepositoryID, r.Repository, r.At, public)
	}
	trashed, err := db.TrashedRepositories(ctx, "", "", 1000)
	must(t, err)
	for _, r := range trashed {
		trash, err := db.Trash(ctx, oci.Repository(r), meta.TrashPlace{}, 1000)
		must(t, err)
		for _, m := range trash {
			add("in the trash: %+v", m)
		}
	}
	manifests, err := db.StoredManifests(ctx, 0, 100_000)
	must(t, err)
	for _, m := range manifests {
		present, missing, err := db.ManifestParts(ctx, m.ID)
		must(t, err)
		slices.Sort(present)
		slices.Sort(missing)
		d, err := oci.ParseDigest(m.Digest)
		must(t, err)
		referrers, _, err := db.Referrers(ctx, m.Repository, d, "", 0, 1000, 1<<20)
		must(t, err)
		for i := range referrers {
			referrers[i].ID = 0
		}
		add("manifest %s %s %s %d %s: %v, not here %v, referrers %v", m.Repository, m.Digest, m.MediaType, m.Size, digestOf(m.Body), present, missing, referrers)
	}
	blobs, err := db.StoredBlobs(ctx, 0, 100_000)
	must(t, err)
	for _, b := range blobs {
		d, size, err := blob.HashObject(ctx, store, b.Key, oci.SHA256)
		add("blob %s %d %t: %s %d %v", b.Digest, b.Size, b.Needed, d, size, err)
	}
	links, err := db.UnreferencedBlobs(ctx, time.Now().Add(time.Hour), 100_000)
	must(t, err)
	for _, l := range links {
		add("no manifest needs %s in %s", l.Digest, l.Repository)
	}
	slices.Sort(lines)
	return lines
}

// wantSame fails the test unless a restored registry has what another one had.
func wantSame(t testing.TB, had, has []string) {
	t.Helper()
	if len(had) < 2 {
		t.Fatalf("the registry had nothing: %v", had)
	}
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

func wantClean(t testing.TB, db *meta.DB, store blob.Store) {
	t.Helper()
	_, err := fsck.Run(t.Context(), db, store, fsck.Options{Deep: true, Found: func(f fsck.Finding) {
		if f.Damage {
			t.Errorf("fsck: %+v", f)
		}
	}})
	must(t, err)
}

// faulty is a store of whose calls one fails, the nth.
type faulty struct {
	blob.Store
	mu    sync.Mutex
	left  int  // calls until one fails
	after bool // that one does its work before
}

var errFault = errors.New("fault")

func (f *faulty) run(call func() error) error {
	f.mu.Lock()
	f.left--
	now := f.left == 0
	f.mu.Unlock()
	if now && !f.after {
		return errFault
	}
	if err := call(); err != nil {
		return err
	}
	if now {
		return errFault
	}
	return nil
}

func (f *faulty) PutDocument(ctx context.Context, name string, data []byte) error {
	return f.run(func() error { return f.Store.PutDocument(ctx, name, data) })
}

func (f *faulty) DeleteDocument(ctx context.Context, name string) error {
	return f.run(func() error { return f.Store.DeleteDocument(ctx, name) })
}

func (f *faulty) Delete(ctx context.Context, key string) error {
	return f.run(func() error { return f.Store.Delete(ctx, key) })
}

func (f *faulty) Create(ctx context.Context) (w blob.Writer, err error) {
	err = f.run(func() error {
		w, err = f.Store.Create(ctx)
		return err
	})
	return w, err
}

func (f *faulty) Document(ctx context.Context, name string) (data []byte, err error) {
	err = f.run(func() error {
		data, err = f.Store.Document(ctx, name)
		return err
	})
	return data, err
}

func (f *faulty) Stat(ctx context.Context, key string) (n int64, err error) {
	err = f.run(func() error {
		n, err = f.Store.Stat(ctx, key)
		return err
	})
	return n, err
}
