package meta

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// scene is something that one writer changes step by step, while readers look at it.
type scene struct {
	write func(step int) error // brings about the state of a step, 1 and on
	read  func() (any, error)  // observes a state
	state func(step int) any   // what read must return after a step; step 0 is the beginning
}

// watch fails if a read that begins after a write was acknowledged returns an older state,
// or one that no write has begun to make.
func (s scene) watch(t *testing.T, name string, steps int) {
	var begun, acknowledged atomic.Int64
	look := func() bool {
		first := acknowledged.Load()
		got, err := s.read()
		last := begun.Load()
		if err != nil {
			t.Errorf("%s: read: %v", name, err)
			return false
		}
		for i := first; i <= last; i++ {
			if got == s.state(int(i)) {
				return true
			}
		}
		t.Errorf("%s: a read that began after step %d was acknowledged and ended before step %d began returned %v", name, first, last+1, got)
		return false
	}
	var all sync.WaitGroup
	done := make(chan struct{})
	all.Go(func() {
		defer close(done)
		for i := 1; i <= steps; i++ {
			begun.Store(int64(i))
			if err := s.write(i); err != nil {
				t.Errorf("%s: step %d: %v", name, i, err)
				return
			}
			acknowledged.Store(int64(i))
			// At once, and when a reader that was late has put into the cache what it found.
			if !look() {
				return
			}
			time.Sleep(100 * time.Microsecond)
			if !look() {
				return
			}
		}
	})
	for range 2 {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if !look() {
						return
					}
				}
			}
		})
	}
	all.Wait()
}

// absent is the state of what is not there.
const absent = "absent"

func orAbsent(v any, err error) (any, error) {
	if errors.Is(err, ErrNotFound) {
		return absent, nil
	}
	return v, err
}

// The cache answers as the database would: what was acknowledged is seen at once.
func TestReadsSeeAcknowledgedWrites(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	origin := Origin{Actor: "a", Method: "push"}
	readManifest := func(r oci.Repository, ref oci.Reference) (any, error) {
		m, err := db.Manifest(ctx, r, ref, true)
		if err != nil {
			return orAbsent(nil, err)
		}
		return m.Digest, nil
	}
	// since is the state of a blob: when it became unreferenced.
	since := func(r oci.Repository, d oci.Digest) (any, error) {
		b, err := db.Blob(ctx, r, d)
		if err != nil {
			return orAbsent(nil, err)
		}
		if b.UnreferencedSince.IsZero() {
			return "needed", nil
		}
		return b.UnreferencedSince.Unix(), nil
	}
	whole := func(string) bool { return true }
	alternate := func(a, b any) func(int) any {
		return func(step int) any { return [2]any{a, b}[step%2] }
	}
	scenes := map[string]func() scene{
		"a tag moves": func() scene {
			var m []NewManifest
			for i := range 5 {
				m = append(m, image(t, db, "moves", fmt.Sprint("moves", i)))
			}
			put(t, db, func() NewManifest { n := m[0]; n.Tags = []oci.Tag{"t"}; return n }())
			return scene{
				func(i int) error { n := m[i%5]; n.Tags = []oci.Tag{"t"}; _, err := db.PutManifest(ctx, n); return err },
				func() (any, error) { return readManifest("moves", byTag("t")) },
				func(i int) any { return m[i%5].Digest },
			}
		},
		"a tag comes and goes": func() scene {
			n := image(t, db, "tags", "tags")
			n.Tags = []oci.Tag{"t"}
			return scene{
				func(i int) error {
					if i%2 == 0 {
						return db.DeleteTag(ctx, "tags", "t", origin, at(0))
					}
					_, err := db.PutManifest(ctx, n)
					return err
				},
				func() (any, error) { return readManifest("tags", byTag("t")) },
				alternate(absent, n.Digest),
			}
		},
		"a manifest comes and goes": func() scene {
			n := image(t, db, "manifests", "manifests", "t")
			var turn atomic.Int64
			return scene{
				func(i int) error {
					if i%2 == 1 {
						return db.DeleteManifest(ctx, "manifests", n.Digest, nil, origin, at(0))
					}
					_, err := db.PutManifest(ctx, n)
					return err
				},
				func() (any, error) { // by digest, and by the tag that goes with it
					if turn.Add(1)%2 == 0 {
						return readManifest("manifests", byTag("t"))
					}
					return readManifest("manifests", byDigest(n.Digest))
				},
				alternate(n.Digest, absent),
			}
		},
		"a blob is pushed and deleted": func() scene {
			d := digestOf("pushed")
			return scene{
				func(i int) error {
					if i%2 == 0 {
						return db.DeleteBlob(ctx, "pushed", d, Origin{}, at(0))
					}
					return commitBlob(ctx, db, NewBlob{Repository: "pushed", Digest: d, Size: 1, Key: newKey(), Now: at(7)}, whole)
				},
				func() (any, error) { return since("pushed", d) },
				alternate(absent, at(7).Unix()),
			}
		},
		"a blob is mounted and collected": func() scene {
			d := digestOf("mounted")
			commit(t, db, "from", d, at(1000))
			return scene{
				func(i int) error {
					if i%2 == 1 {
						return db.MountBlob(ctx, "into", "from", d, at(7))
					}
					links, err := db.UnreferencedBlobs(ctx, at(8), 1000)
					if err != nil {
						return err
					}
					for _, l := range links {
						if l.Repository == "into" {
							_, err := db.CollectBlobs(ctx, []UnreferencedBlob{l}, at(8), at(9))
							return err
						}
					}
					return errors.New("the link is not there")
				},
				func() (any, error) { return since("into", d) },
				alternate(absent, at(7).Unix()),
			}
		},
		"a blob is asked for": func() scene {
			d := digestOf("touched")
			commit(t, db, "touched", d, at(1000))
			return scene{
				func(i int) error { return db.TouchBlob(ctx, "touched", d, at(1000+int64(i))) },
				func() (any, error) { return since("touched", d) },
				func(i int) any { return at(1000 + int64(i)).Unix() },
			}
		},
		"a blob is pushed again": func() scene {
			d := digestOf("again")
			commit(t, db, "again", d, at(1000))
			return scene{
				func(i int) error {
					return commitBlob(ctx, db, NewBlob{Repository: "again", Digest: d, Size: 1, Key: newKey(), Now: at(1000 + int64(i))}, whole)
				},
				func() (any, error) { return since("again", d) },
				func(i int) any { return at(1000 + int64(i)).Unix() },
			}
		},
		"a blob is needed and not": func() scene {
			n := image(t, db, "needed", "needed")
			return scene{
				func(i int) error {
					if i%2 == 1 {
						return db.DeleteManifest(ctx, "needed", n.Digest, nil, origin, at(1000+int64(i)))
					}
					_, err := db.PutManifest(ctx, n)
					return err
				},
				func() (any, error) { return since("needed", n.Parsed.Blobs[0].Digest) },
				func(i int) any {
					if i%2 == 0 {
						return "needed"
					}
					return at(1000 + int64(i)).Unix()
				},
			}
		},
		"a blob that was waited for arrives": func() scene {
			config, late := digestOf("config"), digestOf("late")
			commit(t, db, "waits", config, at(1000))
			n := document{seed: "waits", blobs: []oci.Digest{config, late}}.build(t, "waits", at(1000))
			n.NeedBlobs = false
			put(t, db, n)
			return scene{
				func(i int) error {
					if i%2 == 1 {
						return commitBlob(ctx, db, NewBlob{Repository: "waits", Digest: late, Size: 1, Key: newKey(), Now: at(1000)}, whole)
					}
					if err := db.DeleteManifest(ctx, "waits", n.Digest, nil, origin, at(1000)); err != nil {
						return err
					}
					return nil
				},
				func() (any, error) { return since("waits", late) },
				func(i int) any { return [...]any{absent, "needed", at(1000).Unix()}[min(i, 2)] },
			}
		},
		"broken bytes are replaced": func() scene {
			d := digestOf("broken")
			keys := []string{commit(t, db, "broken", d, at(1000))}
			commit(t, db, "beside", d, at(1000))
			for range 1000 {
				keys = append(keys, newKey())
			}
			return scene{
				func(i int) error {
					return commitBlob(ctx, db, NewBlob{Repository: "broken", Digest: d, Size: 1, Key: keys[i], Now: at(1000)}, func(string) bool { return false })
				},
				func() (any, error) { // in a repository that nobody pushed to
					b, err := db.Blob(ctx, "beside", d)
					if err != nil {
						return nil, err
					}
					return b.Key, nil
				},
				func(i int) any { return keys[i] },
			}
		},
		"a damaged blob is dropped": func() scene {
			d := digestOf("dropped")
			return scene{
				func(i int) error {
					if i%2 == 1 {
						return commitBlob(ctx, db, NewBlob{Repository: "dropped", Digest: d, Size: 1, Key: newKey(), Now: at(7)}, whole)
					}
					var id int64
					var key string
					if err := db.read.QueryRow(`SELECT id, storage_key FROM blob WHERE digest = $1`, d.String()).Scan(&id, &key); err != nil {
						return err
					}
					return db.DropBlob(ctx, id, key, at(8))
				},
				func() (any, error) { return since("dropped", d) },
				alternate(absent, at(7).Unix()),
			}
		},
	}
	var all sync.WaitGroup
	for name, prepare := range scenes {
		s := prepare()
		all.Go(func() {
			steps := rounds(120)
			if name == "a blob that was waited for arrives" {
				steps = 2
			}
			s.watch(t, name, steps)
		})
	}
	all.Wait()
}

func TestSQLiteSecondReadIsCached(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "a", "a", "t")
	for _, ref := range []oci.Reference{byTag("t"), byDigest(n.Digest)} {
		one, err := db.Manifest(t.Context(), "a", ref, false)
		if err != nil || one.Digest != n.Digest || string(one.Body) != string(n.Body) {
			t.Fatalf("%+v, %v", one, err)
		}
		if two, err := db.Manifest(t.Context(), "a", ref, true); err != nil || one != two {
			t.Errorf("the second read of %s was not answered by the cache: %v", ref, err)
		}
	}
	one, err := db.Blob(t.Context(), "a", n.Parsed.Blobs[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if two, err := db.Blob(t.Context(), "a", one.Digest); err != nil || one != two {
		t.Errorf("the second read of a blob was not answered by the cache: %v", err)
	}
}
