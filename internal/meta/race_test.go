package meta

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// rounds is how often a race is run.
func rounds(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// objects stands for the blob store: it knows which keys have bytes.
type objects struct {
	mu   sync.Mutex
	live map[string]bool
}

func (o *objects) create() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := newKey()
	o.live[k] = true
	return k
}

func (o *objects) delete(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.live, key)
}

func (o *objects) has(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.live[key]
}

// arena is a small registry that many push to while others take away, without any grace.
type arena struct {
	t     *testing.T
	db    *DB
	store objects
	repos []oci.Repository
	blobs []oci.Digest

	acknowledged, missing, gone, referenced, links, buried atomic.Int64
}

func (a *arena) repo() oci.Repository { return a.repos[rand.IntN(len(a.repos))] }

// provide does what clients do before they push a manifest: ask, mount, or upload.
func (a *arena) provide(r oci.Repository, d oci.Digest) {
	ctx := a.t.Context()
	var err error
	switch rand.IntN(4) {
	case 0:
		var b *Blob
		if b, err = a.db.Blob(ctx, r, d); err == nil && !b.UnreferencedSince.IsZero() {
			err = a.db.TouchBlob(ctx, r, d, time.Now())
		}
	case 1:
		err = a.db.MountBlob(ctx, r, a.repo(), d, time.Now())
	case 2:
		err = a.db.MountBlob(ctx, r, "", d, time.Now())
	default:
		err = ErrNotFound
	}
	if errors.Is(err, ErrNotFound) {
		err = commitBlob(ctx, a.db, NewBlob{Repository: r, Digest: d, Size: 10, Key: a.store.create(), Now: time.Now()}, a.store.has)
	}
	if err != nil {
		a.t.Errorf("provide %s@%s: %v", r, d, err)
	}
}

// hold fails unless all that an acknowledged manifest needs is there.
func (a *arena) hold(n NewManifest) {
	if _, err := a.db.Manifest(a.t.Context(), n.Repository, byDigest(n.Digest), true); err != nil {
		a.t.Errorf("acknowledged manifest %s@%s: %v", n.Repository, n.Digest, err)
	}
	for _, d := range n.Parsed.Blobs {
		b, err := a.db.Blob(a.t.Context(), n.Repository, d.Digest)
		switch {
		case err != nil:
			a.t.Errorf("blob %s of an acknowledged manifest of %s: %v", d.Digest, n.Repository, err)
		case !a.store.has(b.Key):
			a.t.Errorf("the bytes (%s) of blob %s of an acknowledged manifest of %s are gone", b.Key, d.Digest, n.Repository)
		case !b.UnreferencedSince.IsZero():
			a.t.Errorf("blob %s of an acknowledged manifest of %s may be collected", d.Digest, n.Repository)
		}
	}
}

func (a *arena) push(seed int) (NewManifest, bool) {
	r := a.repo()
	var blobs []oci.Digest
	for _, i := range rand.Perm(len(a.blobs))[:1+rand.IntN(3)] {
		blobs = append(blobs, a.blobs[i])
		a.provide(r, a.blobs[i])
	}
	n := document{seed: seed, blobs: blobs}.build(a.t, r, time.Now(), oci.Tag(fmt.Sprintf("t%d", rand.IntN(3))))
	_, err := a.db.PutManifest(a.t.Context(), n)
	if missing, ok := errors.AsType[*MissingError](err); ok {
		a.missing.Add(1)
		for _, d := range missing.Digests {
			if !slices.Contains(blobs, d) {
				a.t.Errorf("%s is missing, but nobody asked for it", d)
			}
		}
		return n, false
	}
	if err != nil {
		a.t.Errorf("put manifest: %v", err)
		return n, false
	}
	a.acknowledged.Add(1)
	return n, true
}

// pusher pushes, and deletes what it pushed some time later.
func (a *arena) pusher(id, rounds int) {
	var mine []NewManifest
	for i := range rounds {
		n, ok := a.push(id*1_000_000 + i)
		if !ok {
			continue
		}
		a.hold(n)
		if mine = append(mine, n); len(mine) < 3 {
			continue
		}
		a.hold(mine[0])
		if err := a.db.DeleteManifest(a.t.Context(), mine[0].Repository, mine[0].Digest, nil, Origin{}, time.Now()); err != nil {
			a.t.Errorf("delete manifest: %v", err)
		}
		mine = mine[1:]
	}
	for _, n := range mine {
		a.hold(n)
	}
}

func (a *arena) collector() {
	before := time.Now().Add(time.Hour)
	links, err := a.db.UnreferencedBlobs(a.t.Context(), before, 20)
	if err != nil {
		a.t.Errorf("find unreferenced blobs: %v", err)
	}
	if rand.IntN(2) == 0 {
		time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond) // so that others come between
	}
	got, err := a.db.CollectBlobs(a.t.Context(), links, before, time.Now())
	if err != nil {
		a.t.Errorf("collect blobs: %v", err)
	}
	a.links.Add(got.Links)
}

func (a *arena) gravedigger() {
	keys, err := a.db.Doomed(a.t.Context(), "", 20)
	if err != nil {
		a.t.Errorf("doomed: %v", err)
	}
	for _, k := range keys {
		var n int
		if err := a.db.read.QueryRow(`SELECT COUNT(*) FROM blob WHERE storage_key = $1`, k).Scan(&n); err != nil || n > 0 {
			a.t.Errorf("object %s is doomed while it is a blob: %v", k, err)
		}
		a.store.delete(k)
	}
	if err := a.db.Buried(a.t.Context(), keys); err != nil {
		a.t.Errorf("buried: %v", err)
	}
	a.buried.Add(int64(len(keys)))
	time.Sleep(200 * time.Microsecond)
}

func (a *arena) deleter() {
	err := a.db.DeleteBlob(a.t.Context(), a.repo(), a.blobs[rand.IntN(len(a.blobs))], Origin{}, time.Now())
	switch {
	case err == nil:
		a.gone.Add(1)
	case errors.Is(err, ErrReferenced):
		a.referenced.Add(1)
	case !errors.Is(err, ErrNotFound):
		a.t.Errorf("delete blob: %v", err)
	}
	time.Sleep(200 * time.Microsecond)
}

// Pushes race with all that takes away. Whatever the order, a manifest that was acknowledged
// has all it needs, and one that came too late was told.
func TestPushesRaceWithCollection(t *testing.T) {
	a := &arena{t: t, db: newDB(t), store: objects{live: make(map[string]bool)}, repos: []oci.Repository{"a", "b/c", "d"}}
	for i := range 6 {
		a.blobs = append(a.blobs, digestOf(i))
	}
	const pushers = 12
	var pushing, taking sync.WaitGroup
	done := make(chan struct{})
	for _, take := range []func(){a.collector, a.collector, a.gravedigger, a.deleter} {
		taking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					take()
				}
			}
		})
	}
	counts := func() map[string]int64 {
		return map[string]int64{
			"acknowledged": a.acknowledged.Load(), "refused": a.missing.Load(), "collected": a.links.Load(),
			"deleted": a.gone.Load(), "referenced": a.referenced.Load(), "buried": a.buried.Load(),
		}
	}
	// Who comes between whom is chance, and seldom on a busy machine: then once more.
	for turn := 0; turn == 0 || turn < 10 && slices.Contains(slices.Collect(maps.Values(counts())), 0); turn++ {
		for i := range pushers {
			pushing.Go(func() { a.pusher(turn*pushers+i, rounds(2000)/pushers) })
		}
		pushing.Wait()
	}
	close(done)
	taking.Wait()

	t.Logf("%d manifests acknowledged, %d refused, %d links collected, %d blobs deleted, %d deletes refused, %d objects buried",
		a.acknowledged.Load(), a.missing.Load(), a.links.Load(), a.gone.Load(), a.referenced.Load(), a.buried.Load())
	for what, n := range counts() {
		if n == 0 && !t.Failed() {
			t.Errorf("nothing was %s: no race took place", what)
		}
	}
	a.settle()
}

// settle holds the rows against the bytes, when nothing moves any more.
func (a *arena) settle() {
	a.t.Helper()
	rows, err := a.db.StoredBlobs(a.t.Context(), 0, 1000)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, b := range rows {
		if !a.store.has(b.Key) {
			a.t.Errorf("blob %s has no bytes", b.Digest)
		}
	}
	a.store.mu.Lock()
	defer a.store.mu.Unlock()
	for k := range a.store.live {
		if known, err := a.db.KnownKey(a.t.Context(), k); err != nil || !known {
			a.t.Errorf("no row speaks of object %s: %v", k, err)
		}
	}
}

// A blob that a sparse manifest lacks arrives while the collector runs: it is protected
// from the moment it is there, or it is still missing.
func TestLateBlobsRaceWithCollection(t *testing.T) {
	a := &arena{t: t, db: newDB(t), store: objects{live: make(map[string]bool)}, repos: []oci.Repository{"sparse"}}
	for i := range 4 {
		a.blobs = append(a.blobs, digestOf(i))
	}
	for i := range rounds(150) {
		var all sync.WaitGroup
		var n [3]NewManifest
		for j := range n {
			n[j] = document{seed: fmt.Sprint(i, j), blobs: a.blobs[j : j+2]}.build(t, "sparse", time.Now())
			n[j].NeedBlobs = false
			all.Go(func() {
				if _, err := a.db.PutManifest(t.Context(), n[j]); err != nil {
					t.Error(err)
				}
			})
		}
		for _, d := range a.blobs {
			all.Go(func() { a.provide("sparse", d) })
		}
		all.Go(a.collector)
		all.Go(a.collector)
		all.Go(a.gravedigger)
		all.Wait()
		for _, m := range n {
			for _, d := range m.Parsed.Blobs {
				b, err := a.db.Blob(t.Context(), "sparse", d.Digest)
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
				if err == nil && (!b.UnreferencedSince.IsZero() || !a.store.has(b.Key)) {
					t.Fatalf("round %d: blob %s arrived and is not protected: %+v", i, d.Digest, b)
				}
			}
			if err := a.db.DeleteManifest(t.Context(), "sparse", m.Digest, nil, Origin{}, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if i%10 == 0 {
			audit(t, a.db)
		}
		collectAll(t, a.db)
	}
	a.settle()
}

// A session ends once: its bytes become a blob, or they are doomed.
func TestUploadsEndOnce(t *testing.T) {
	db := newDB(t)
	var won, lost int
	for i := range rounds(500) {
		u := Upload{ID: fmt.Sprint(i), Repository: "a", Key: newKey(), Size: 1, Algorithm: oci.SHA256, Updated: time.Now()}
		if err := db.SaveUpload(t.Context(), &u, true); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		var committed error
		for _, j := range rand.Perm(4) {
			all.Go(func() {
				var err error
				switch j {
				case 0:
					committed = db.CommitBlob(t.Context(), NewBlob{Repository: "a", Digest: digestOf(i), Size: 1, Key: u.Key, Upload: u.ID, Now: time.Now()})
					err = committed
				case 1:
					err = db.CancelUpload(t.Context(), "a", u.ID, oci.SHA256, 0, time.Now())
				case 2:
					_, err = db.ExpireUploads(t.Context(), time.Now().Add(time.Hour), 10, time.Now())
				case 3:
					next := u
					next.Saved, next.Size = u.Size, 2
					err = db.SaveUpload(t.Context(), &next, false)
				}
				if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCancelled) {
					t.Errorf("round %d, %d: %v", i, j, err)
				}
			})
		}
		all.Wait()
		var blob, doomed, upload bool
		if err := db.read.QueryRow(`SELECT EXISTS (SELECT 1 FROM blob WHERE storage_key = $1), EXISTS (SELECT 1 FROM doomed_object WHERE storage_key = $1),
			EXISTS (SELECT 1 FROM upload WHERE storage_key = $1)`, u.Key).Scan(&blob, &doomed, &upload); err != nil {
			t.Fatal(err)
		}
		if blob != (committed == nil) || doomed == blob || upload {
			t.Fatalf("round %d: commit said %v; the key is of a blob: %v, doomed: %v, of an upload: %v", i, committed, blob, doomed, upload)
		}
		if committed == nil {
			won++
		} else {
			lost++
		}
	}
	if won == 0 || lost == 0 {
		t.Errorf("%d commits came first, %d did not: no race took place", won, lost)
	}
}
