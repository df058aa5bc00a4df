package move_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
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
	"github.com/berthregistry/berth/internal/move"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/test/service"
)

// place is where a registry can be.
type place struct {
	name     string
	database func(t *testing.T, readOnly bool) *meta.DB
	blobs    func(t *testing.T) blob.Store
}

// folder is an empty data folder.
func folder(t *testing.T) place {
	t.Helper()
	dir := t.TempDir()
	return place{
		name: dir,
		database: func(t *testing.T, readOnly bool) *meta.DB {
			t.Helper()
			open := meta.Open
			if readOnly {
				open = meta.OpenReadOnly
			}
			db, err := open(t.Context(), filepath.Join(dir, "berth.db"), meta.Options{})
			must(t, err)
			return db
		},
		blobs: func(t *testing.T) blob.Store {
			t.Helper()
			store, err := fs.Open(filepath.Join(dir, "blobs"), fs.Options{})
			must(t, err)
			return store
		},
	}
}

// scaled is an empty PostgreSQL database and an empty bucket.
func scaled(t *testing.T) (place, *service.Database) {
	t.Helper()
	db, bucket := service.Postgres(t), service.S3(t)
	return place{
		name: db.Name,
		database: func(t *testing.T, readOnly bool) *meta.DB {
			t.Helper()
			open := meta.Open
			if readOnly {
				open = meta.OpenReadOnly
			}
			db, err := open(t.Context(), db.URL, meta.Options{Timeout: time.Minute})
			must(t, err)
			return db
		},
		blobs: func(t *testing.T) blob.Store {
			t.Helper()
			store, err := s3.Open(t.Context(), s3.Options{
				Bucket: bucket.Name, Endpoint: bucket.Endpoint, Region: bucket.Region, Prefix: "registry/",
				AccessKeyID: bucket.AccessKey, SecretAccessKey: bucket.SecretKey,
			})
			must(t, err)
			return store
		},
	}, db
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// end opens the place until the test ends.
func (p place) end(t *testing.T, readOnly bool) move.End {
	t.Helper()
	db := p.database(t, readOnly)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return move.End{DB: db, Blobs: p.blobs(t)}
}

// world is a registry as it is served.
type world struct {
	*testing.T
	move.End
	reg *registry.Registry
}

func serve(t *testing.T, e move.End) *world {
	t.Helper()
	must(t, e.DB.CheckComplete(t.Context()))
	reg, err := registry.New(t.Context(), e.DB, e.Blobs, registry.Options{
		Sparse: func(r oci.Repository) registry.Sparse {
			if strings.HasPrefix(string(r), "sparse/") {
				return registry.SparseAll
			}
			return registry.SparseIndex
		},
		Delete: true, Grace: time.Hour, UploadExpiry: time.Hour,
	})
	must(t, err)
	return &world{t, e, reg}
}

func body(b []byte) registry.Body {
	return registry.Body{Reader: bytes.NewReader(b), First: -1, Interrupt: func() {}}
}

func descriptor(mediaType string, d oci.Digest, b []byte) oci.Descriptor {
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

func (w *world) push(r oci.Repository, a oci.Algorithm, b []byte) oci.Descriptor {
	w.Helper()
	d := oci.DigestBytes(a, b)
	must(w, w.reg.PutBlob(w.Context(), r, d, body(b)))
	return descriptor("application/vnd.oci.image.layer.v1.tar", d, b)
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

func (w *world) put(ctx context.Context, r oci.Repository, a oci.Algorithm, manifest []byte, tags ...oci.Tag) (oci.Descriptor, error) {
	w.Helper()
	d := oci.DigestBytes(a, manifest)
	var doc struct{ MediaType string }
	must(w, json.Unmarshal(manifest, &doc))
	_, err := w.reg.PutManifest(ctx, registry.Push{
		Repository: r, Reference: oci.Reference{Digest: d}, Tags: tags, ContentType: doc.MediaType, Body: manifest, Actor: registry.Actor{Name: "tester"},
	})
	return descriptor(doc.MediaType, d, manifest), err
}

func (w *world) mustPut(r oci.Repository, a oci.Algorithm, manifest []byte, tags ...oci.Tag) oci.Descriptor {
	w.Helper()
	d, err := w.put(w.Context(), r, a, manifest, tags...)
	must(w, err)
	return d
}

// fill pushes one of each kind of content.
func (w *world) fill() {
	w.Helper()
	for i := range 40 {
		r := oci.Repository(fmt.Sprintf("team%d/app", i%4))
		a := oci.SHA256
		if i%5 == 0 {
			a = oci.SHA512
		}
		config := w.push(r, a, fmt.Appendf(nil, `{"n":%d}`, i))
		layer := w.push(r, a, bytes.Repeat([]byte{byte(i), 1, 2, 3}, 1<<(i%18)))
		empty := w.push(r, a, nil)
		foreign := descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", oci.DigestBytes(a, fmt.Append(nil, i)), nil)
		m := w.mustPut(r, a, image(nil, config, layer, empty, foreign), oci.Tag(fmt.Sprint("v", i)), "latest")
		w.mustPut(r, a, image(map[string]any{"subject": m, "artifactType": "text/sbom", "annotations": map[string]string{"ä": "ö\u2028"}}, config))
		absent := descriptor(oci.MediaTypeImage, oci.DigestBytes(a, []byte("absent")), nil)
		index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": []any{m, absent}})
		must(w, err)
		w.mustPut(r, oci.SHA256, index, "multi")
		w.push(r, oci.SHA256, fmt.Append(nil, "spare ", i)) // no manifest needs it
	}
	sparse := image(nil, descriptor("a/b", oci.DigestBytes(oci.SHA256, []byte("later")), []byte("later")))
	w.mustPut("sparse/app", oci.SHA256, sparse, "1")
	// A repository that is gone, and tags that are.
	gone := w.push("gone", oci.SHA256, []byte("gone"))
	d := w.mustPut("gone", oci.SHA256, image(nil, gone), "x")
	must(w, w.reg.DeleteManifest(w.Context(), "gone", oci.Reference{Digest: d.Digest}, registry.Actor{Name: "tester"}, nil))
	must(w, w.reg.DeleteBlob(w.Context(), "gone", gone.Digest, registry.Actor{}))
	must(w, w.reg.DeleteManifest(w.Context(), "team1/app", oci.Reference{Tag: "v1"}, registry.Actor{Name: "tester"}, nil))
	// An upload that is not finished.
	_, err := w.reg.AppendUpload(w.Context(), w.reg.StartUpload("team1/app", oci.SHA256, 0), body([]byte("half of it")))
	must(w, err)
}

// pushing pushes images until the function that it returns is called, which returns how many were acknowledged.
func (w *world) pushing(clients int) func() int64 {
	ctx, cancel := context.WithCancel(w.Context())
	var group sync.WaitGroup
	var mu sync.Mutex
	var acknowledged int64
	for c := range clients {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				r := oci.Repository(fmt.Sprintf("client%d/app%d", c, i%9))
				b := make([]byte, rand.N(1<<15))
				for j := range b {
					b[j] = byte(rand.Uint32())
				}
				d := oci.DigestBytes(oci.SHA256, b)
				if err := w.reg.PutBlob(ctx, r, d, body(b)); err != nil {
					if ctx.Err() == nil {
						w.Errorf("push of a blob: %v", err)
					}
					return
				}
				if _, err := w.put(ctx, r, oci.SHA256, image(nil, descriptor("a/b", d, b)), "latest", oci.Tag(fmt.Sprint(i))); err != nil {
					if ctx.Err() == nil {
						w.Errorf("push of a manifest: %v", err)
					}
					return
				}
				mu.Lock()
				acknowledged++
				mu.Unlock()
			}
		})
	}
	return func() int64 {
		cancel()
		group.Wait()
		return acknowledged
	}
}

// content returns everything that clients can learn of a registry, a line for each fact. All bytes are read.
func content(t *testing.T, e move.End) []string {
	t.Helper()
	ctx := t.Context()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	repositories, err := e.DB.Repositories(ctx, "", 10_000)
	must(t, err)
	for _, name := range repositories {
		r := oci.Repository(name)
		tags, err := e.DB.Tags(ctx, r, "", 10_000)
		must(t, err)
		add("%s: %v", r, tags)
		for _, tag := range append(tags, "v1") {
			moves, err := e.DB.TagLog(ctx, r, oci.Tag(tag))
			must(t, err)
			add("%s:%s: %v", r, tag, moves)
			m, err := e.DB.Manifest(ctx, r, oci.Reference{Tag: oci.Tag(tag)}, true)
			if err == nil {
				add("%s:%s: %s", r, tag, m.Digest)
			}
		}
	}
	manifests, err := e.DB.StoredManifests(ctx, 0, 100_000)
	must(t, err)
	for _, m := range manifests {
		present, missing, err := e.DB.ManifestParts(ctx, m.ID)
		must(t, err)
		slices.Sort(present)
		slices.Sort(missing)
		referrers, _, err := e.DB.Referrers(ctx, m.Repository, digest(t, m.Digest), "", 0, 1000, 1<<20)
		must(t, err)
		add("manifest %d %s %s %s %d %s: %v, not here %v, referrers %v", m.ID, m.Repository, m.Digest, m.MediaType, m.Size,
			oci.DigestBytes(digest(t, m.Digest).Algorithm(), m.Body), present, missing, referrers)
	}
	blobs, err := e.DB.StoredBlobs(ctx, 0, 100_000)
	must(t, err)
	for _, b := range blobs {
		d, size, err := blob.HashObject(ctx, e.Blobs, b.Key, digest(t, b.Digest).Algorithm())
		add("blob %d %s %d %t: %s %d %v", b.ID, b.Digest, b.Size, b.Needed, d, size, err)
	}
	links, err := e.DB.UnreferencedBlobs(ctx, time.Now().Add(time.Hour), 100_000)
	must(t, err)
	for _, l := range links {
		add("no manifest needs %s in %s since %s", l.Digest, l.Repository, l.Since)
	}
	slices.Sort(lines) // links of the same moment have no order
	return lines
}

func digest(t *testing.T, s string) oci.Digest {
	t.Helper()
	d, err := oci.ParseDigest(s)
	must(t, err)
	return d
}

// wantSame fails the test unless both registries have the same content.
func wantSame(t *testing.T, from, to move.End) {
	t.Helper()
	a, b := content(t, from), content(t, to)
	if len(a) < 2 {
		t.Fatalf("the source has nothing: %v", a)
	}
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Fatalf("line %d of %d is\n%s\nat the source, of %d\n%s\nat the target", i, len(a), slices.Concat(a[i:], []string{""})[0], len(b), slices.Concat(b[i:], []string{""})[0])
		}
	}
}

// wantClean fails the test if fsck finds anything but objects that are to be deleted.
func wantClean(t *testing.T, e move.End) {
	t.Helper()
	_, err := fsck.Run(t.Context(), e.DB, e.Blobs, fsck.Options{Deep: true, Found: func(f fsck.Finding) { t.Errorf("fsck: %+v", f) }})
	must(t, err)
}

// tally is a Progress that counts, and may do something at a step.
type tally struct {
	mu          sync.Mutex
	step        move.Step
	done, total int64
	steps       []move.Step
	add         func(step move.Step, done int64)
}

func (p *tally) Begin(step move.Step, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.done, p.total = step, done, total
	p.steps = append(p.steps, step)
}

func (p *tally) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.add != nil {
		p.add(p.step, p.done)
	}
}

// options are those of a move in which nothing is damaged.
func options(t *testing.T, from, to move.End) move.Options {
	t.Helper()
	return move.Options{
		From: from, To: to, Parallel: 4, Progress: new(tally),
		Damaged: func(d move.Damage) { t.Errorf("damaged: %+v", d) },
	}
}

// switched makes the switch and ends it.
func switched(t *testing.T, opts move.Options) move.Report {
	t.Helper()
	done, err := move.Switch(t.Context(), opts)
	must(t, err)
	done.Release()
	return done.Report
}

// objectFile returns the file of a blob's object in a data folder.
func objectFile(t *testing.T, p place, key string) string {
	t.Helper()
	name := filepath.Join(p.name, "blobs", key)
	_, err := os.Stat(name)
	must(t, err)
	return name
}
