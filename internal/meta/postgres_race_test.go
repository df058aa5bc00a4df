package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berthregistry/berth/internal/oci"
)

// The tests of this file stop one change in the middle, by a lock on a row that it comes to, and let another one
// run into it. What the package promises must hold afterwards; see audit.

// stage is a database on which changes meet.
type stage struct {
	*testing.T
	*DB
	side *pgx.Conn // of the one who stops changes
}

func newStage(t *testing.T) *stage {
	t.Helper()
	d := migratedPostgres(t)
	side, err := pgx.Connect(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { side.Close(context.Background()) })
	return &stage{t, openDB(t, d.URL), side}
}

// stop locks rows until resume is called.
func (s *stage) stop(query string, args ...any) (resume func()) {
	s.Helper()
	tx, err := s.side.Begin(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	tag, err := tx.Exec(s.Context(), query, args...)
	if err != nil || tag.RowsAffected() == 0 {
		s.Fatalf("%s: %v, %v", query, tag, err)
	}
	return func() {
		s.Helper()
		if err := tx.Commit(s.Context()); err != nil {
			s.Error(err)
		}
	}
}

// begun is a change that was begun.
type begun struct {
	s    *stage
	done chan error
	err  error
	over bool
}

// begin begins a change and returns when it waits for a lock, as waiting in all, or has ended.
func (s *stage) begin(waiting int, change func() error) *begun {
	s.Helper()
	b := &begun{s: s, done: make(chan error, 1)}
	go func() { b.done <- change() }()
	for range 5000 {
		select {
		case b.err = <-b.done:
			b.over = true
			return b
		default:
		}
		var n int
		if err := s.read.QueryRow(`SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n); err != nil {
			s.Fatal(err)
		}
		if n >= waiting {
			return b
		}
		time.Sleep(2 * time.Millisecond)
	}
	s.Fatal("the change neither waits nor ends")
	return nil
}

// end waits for the change and returns its error.
func (b *begun) end() error {
	if !b.over {
		b.err, b.over = <-b.done, true
	}
	return b.err
}

// mustWait fails if the change has ended: then the other one was not stopped where it should.
func (b *begun) mustWait() *begun {
	b.s.Helper()
	if b.over {
		b.s.Fatalf("the change was not stopped: %v", b.err)
	}
	return b
}

func (s *stage) must(err error) {
	s.Helper()
	if err != nil {
		s.Error(err)
	}
}

// protected fails unless the repository has the blob and a manifest needs it.
func (s *stage) protected(r oci.Repository, d oci.Digest) {
	s.Helper()
	b, err := s.Blob(s.Context(), r, d)
	if err != nil || !b.UnreferencedSince.IsZero() {
		s.Errorf("blob of %s: %+v, %v", r, b, err)
	}
}

// A client is told that a blob is there, or that the collector was first.
func TestPostgresTouchMeetsCollector(t *testing.T) {
	s := newStage(t)
	d := digestOf("d")
	commit(t, s.DB, "r", d, at(0))
	links, err := s.UnreferencedBlobs(t.Context(), at(5), 10)
	if err != nil || len(links) != 1 {
		t.Fatal(links, err)
	}
	// A touch that is not committed yet: the collector leaves the link alone, without waiting.
	resume := s.stop(`UPDATE repository_blob SET unreferenced_since = $1`, at(9).UnixMilli())
	if c, err := s.CollectBlobs(t.Context(), links, at(5), at(6)); err != nil || c != (Collected{}) {
		t.Errorf("%+v, %v", c, err)
	}
	resume()
	if c, err := s.CollectBlobs(t.Context(), links, at(5), at(6)); err != nil || c != (Collected{}) {
		t.Errorf("%+v, %v", c, err)
	}
	// A collection that is not committed yet: the touch waits and finds nothing.
	resume = s.stop(`DELETE FROM repository_blob; DELETE FROM repository; DELETE FROM blob`)
	touch := s.begin(1, func() error { return s.TouchBlob(t.Context(), "r", d, at(20)) })
	resume()
	wantErr(t, touch.end(), ErrNotFound)
}

// A blob comes while a manifest is pushed that names it and may do without it.
func TestPostgresSparseManifestMeetsBlob(t *testing.T) {
	for _, first := range []string{"blob", "manifest"} {
		for _, how := range []string{"mount", "push"} {
			t.Run(first+" first, "+how, func(t *testing.T) {
				s := newStage(t)
				ctx := t.Context()
				d := digestOf("late")
				key := commit(t, s.DB, "from", d, at(0))
				image(t, s.DB, "r", "other", "t")
				n := document{seed: 1, foreign: []oci.Digest{d}}.build(t, "r", at(1), "t")
				bring := func() error {
					if how == "mount" {
						return s.MountBlob(ctx, "r", "from", d, at(1))
					}
					return s.CommitBlob(ctx, NewBlob{Repository: "r", Digest: d, Size: 10, Key: newKey(), Whole: key, Now: at(1)})
				}
				put := func() error { _, err := s.PutManifest(ctx, n); return err }
				var resume func()
				var one, two *begun
				if first == "blob" {
					resume = s.stop(`SELECT 1 FROM blob WHERE digest = $1 FOR UPDATE`, d.String()) // where its link refers to it
					one = s.begin(1, bring).mustWait()
					two = s.begin(2, put)
				} else {
					resume = s.stop(`SELECT 1 FROM tag FOR UPDATE`) // which is set last
					one = s.begin(1, put).mustWait()
					two = s.begin(2, bring)
				}
				resume()
				s.must(one.end())
				s.must(two.end())
				s.protected("r", d)
			})
		}
	}
}

// A manifest comes while the last one goes that needs the same blob.
func TestPostgresPutMeetsDelete(t *testing.T) {
	s := newStage(t)
	old := image(t, s.DB, "r", "old")
	image(t, s.DB, "r", "tagged", "t")
	n := document{seed: "new", blobs: digests(old)}.build(t, "r", at(1), "t")
	resume := s.stop(`SELECT 1 FROM tag FOR UPDATE`)
	put := s.begin(1, func() error { _, err := s.PutManifest(t.Context(), n); return err }).mustWait()
	del := s.begin(2, func() error { return s.DeleteManifest(t.Context(), "r", old.Digest, nil, Origin{}, at(2)) })
	resume()
	s.must(put.end())
	s.must(del.end())
	s.protected("r", digests(old)[0])
}

// Two manifests go that need the same blob: one of the deletes begins its grace period.
func TestPostgresDeleteMeetsDelete(t *testing.T) {
	s := newStage(t)
	one := image(t, s.DB, "r", "one")
	two := put(t, s.DB, document{seed: "two", blobs: digests(one)}.build(t, "r", at(1)))
	resume := s.stop(`SELECT 1 FROM manifest WHERE digest = $1 FOR KEY SHARE`, one.Digest.String()) // which is deleted last
	first := s.begin(1, func() error { return s.DeleteManifest(t.Context(), "r", one.Digest, nil, Origin{}, at(2)) }).mustWait()
	second := s.begin(2, func() error { return s.DeleteManifest(t.Context(), "r", two.Digest, nil, Origin{}, at(3)) })
	resume()
	s.must(first.end())
	s.must(second.end())
	if at := since(t, s.DB, "r", digests(one)[0]); at.IsZero() {
		t.Error("nobody needs the blob, but it will never be collected")
	}
}

// The same manifest is deleted twice: the second time it is not there.
func TestPostgresSameDeletes(t *testing.T) {
	s := newStage(t)
	n := image(t, s.DB, "r", "one", "t")
	for what, del := range map[string]func() error{
		"manifest": func() error { return s.DeleteManifest(t.Context(), "r", n.Digest, nil, Origin{}, at(2)) },
		"tag":      func() error { return s.DeleteTag(t.Context(), "r", "t", Origin{}, at(2)) },
	} {
		n.Tags = []oci.Tag{"t"}
		put(t, s.DB, n)
		resume := s.stop(`SELECT 1 FROM tag FOR KEY SHARE`)
		one := s.begin(1, del).mustWait()
		two := s.begin(2, del)
		resume()
		s.must(one.end())
		if err := two.end(); !errors.Is(err, ErrNotFound) {
			t.Errorf("the second delete of the %s: %v", what, err)
		}
	}
}

// So is a blob.
func TestPostgresSameDeletesOfBlob(t *testing.T) {
	s := newStage(t)
	d := digestOf("d")
	commit(t, s.DB, "r", d, at(0))
	del := func() error { return s.DeleteBlob(t.Context(), "r", d, Origin{}, at(1)) }
	resume := s.stop(`SELECT 1 FROM repository_blob FOR KEY SHARE`)
	one := s.begin(1, del).mustWait()
	two := s.begin(2, del).mustWait()
	resume()
	if a, b := one.end(), two.end(); a != nil && b != nil || !errors.Is(errors.Join(a, b), ErrNotFound) || errors.Is(errors.Join(a, b), ErrReferenced) {
		t.Errorf("%v, %v", a, b)
	}
}

// A client deletes what the collector is about to take: it is not there.
func TestPostgresDeleteMeetsCollector(t *testing.T) {
	s := newStage(t)
	d := digestOf("d")
	commit(t, s.DB, "r", d, at(0))
	image(t, s.DB, "r", "other")
	resume := s.stop(fmt.Sprintf(`DELETE FROM repository_blob USING blob b WHERE blob_id = b.id AND b.digest = '%s'; DELETE FROM blob WHERE digest = '%[1]s'`, d))
	del := s.begin(1, func() error { return s.DeleteBlob(t.Context(), "r", d, Origin{}, at(1)) }).mustWait()
	resume()
	wantErr(t, del.end(), ErrNotFound)
}

// The last two links to a blob go at the same time: the blob goes, too.
func TestPostgresLastLinksGo(t *testing.T) {
	s := newStage(t)
	d := digestOf("d")
	key := commit(t, s.DB, "a", d, at(0))
	mount(t, s.DB, "b", d, at(0))
	links, err := s.UnreferencedBlobs(t.Context(), at(1), 10)
	if err != nil || len(links) != 2 {
		t.Fatal(links, err)
	}
	resume := s.stop(`SELECT 1 FROM repository WHERE name = 'a' FOR KEY SHARE`) // which is dropped last
	one := s.begin(1, func() error { return s.DeleteBlob(t.Context(), "a", d, Origin{}, at(1)) }).mustWait()
	two := s.begin(2, func() error {
		_, err := s.CollectBlobs(t.Context(), slices.DeleteFunc(links, func(l UnreferencedBlob) bool { return l.Repository == "a" }), at(1), at(1))
		return err
	})
	resume()
	s.must(one.end())
	s.must(two.end())
	if got := doomed(t, s.DB); !got[key] {
		t.Errorf("doomed are %v", got)
	}
}

// The last two blobs of a repository go at the same time: the repository goes, too.
func TestPostgresLastBlobsGo(t *testing.T) {
	s := newStage(t)
	kept, collected := digestOf("kept"), digestOf("collected")
	commit(t, s.DB, "r", collected, at(0))
	commit(t, s.DB, "r", kept, at(5))
	links, err := s.UnreferencedBlobs(t.Context(), at(1), 10)
	if err != nil || len(links) != 1 {
		t.Fatal(links, err)
	}
	resume := s.stop(`SELECT 1 FROM blob WHERE digest = $1 FOR KEY SHARE`, kept.String()) // which goes after its link
	one := s.begin(1, func() error { return s.DeleteBlob(t.Context(), "r", kept, Origin{}, at(6)) }).mustWait()
	two := s.begin(2, func() error { _, err := s.CollectBlobs(t.Context(), links, at(1), at(6)); return err })
	resume()
	s.must(one.end())
	s.must(two.end())
	if there, err := s.RepositoryExists(t.Context(), "r"); err != nil || there {
		t.Errorf("the repository holds nothing and is there: %v", err)
	}
}

// A blob comes that a manifest waits for, while that manifest goes: in the end nothing needs the blob.
func TestPostgresLateBlobMeetsDelete(t *testing.T) {
	s := newStage(t)
	d := digestOf("late")
	commit(t, s.DB, "from", d, at(0))
	n := put(t, s.DB, document{seed: 1, foreign: []oci.Digest{d}}.build(t, "r", at(1)))
	resume := s.stop(`SELECT 1 FROM manifest_missing_blob FOR UPDATE`)
	mount := s.begin(1, func() error { return s.MountBlob(t.Context(), "r", "from", d, at(2)) }).mustWait()
	del := s.begin(2, func() error { return s.DeleteManifest(t.Context(), "r", n.Digest, nil, Origin{}, at(3)) })
	resume()
	s.must(mount.end())
	s.must(del.end())
	if since(t, s.DB, "r", d).IsZero() {
		t.Error("nobody needs the blob, but it will never be collected")
	}
}

// Two who want a tag as they know it: one of them gets it.
func TestPostgresConditions(t *testing.T) {
	s := newStage(t)
	old := image(t, s.DB, "r", "old", "t")
	push := func(seed string) func() error {
		n := document{seed: seed, blobs: digests(old)}.build(t, "r", at(1), "t")
		n.Condition = func(current oci.Digest) bool { return current == old.Digest }
		return func() error { _, err := s.PutManifest(t.Context(), n); return err }
	}
	resume := s.stop(`SELECT 1 FROM tag FOR UPDATE`)
	one := s.begin(1, push("one")).mustWait()
	two := s.begin(2, push("two"))
	resume()
	s.must(one.end())
	wantErr(t, two.end(), ErrCondition)
}

// A session is ended while its bytes become a blob: they stay.
func TestPostgresCommitMeetsEndOfUpload(t *testing.T) {
	for _, how := range []string{"cancel", "expire"} {
		t.Run(how, func(t *testing.T) {
			s := newStage(t)
			ctx := t.Context()
			image(t, s.DB, "r", "other")
			u := Upload{ID: "u", Repository: "r", Key: newKey(), Size: 1, Algorithm: oci.SHA256, Updated: at(0)}
			save(t, s.DB, u, true)
			resume := s.stop(`SELECT 1 FROM repository FOR UPDATE`) // which the blob's link refers to
			commit := s.begin(1, func() error {
				return s.CommitBlob(ctx, NewBlob{Repository: "r", Digest: digestOf("d"), Size: 1, Key: u.Key, Upload: u.ID, Now: at(1)})
			}).mustWait()
			end := s.begin(2, func() error {
				if how == "cancel" {
					return s.CancelUpload(ctx, "r", u.ID, oci.SHA256, 0, at(2))
				}
				n, err := s.ExpireUploads(ctx, at(2), 10, at(2))
				if n != 0 {
					t.Errorf("%d sessions expired", n)
				}
				return err
			})
			resume()
			s.must(commit.end())
			s.must(end.end())
			if got := doomed(t, s.DB); len(got) > 0 {
				t.Errorf("doomed are %v", got)
			}
		})
	}
}

// A session is ended twice at the same time, before it has a row.
func TestPostgresCancelMeetsFirstSave(t *testing.T) {
	s := newStage(t)
	u := Upload{ID: "u", Repository: "r", Key: newKey(), Size: 1, Algorithm: oci.SHA256, Updated: at(0)}
	resume := s.stop(`INSERT INTO upload (id, repository, storage_key, size, algorithm, created_at, updated_at) VALUES ('u', 'r', $1, 1, 'sha256', 0, 0)`, u.Key)
	cancel := s.begin(1, func() error { return s.CancelUpload(t.Context(), "r", "u", oci.SHA256, 0, at(1)) }).mustWait()
	resume()
	s.must(cancel.end())
	if got := doomed(t, s.DB); !got[u.Key] {
		t.Errorf("doomed are %v", got)
	}
	wantErr(t, s.SaveUpload(t.Context(), &u, false), ErrCancelled)
}

// A repository is left empty, and dropped, while another blob is about to come to it.
func TestPostgresMountMeetsDrop(t *testing.T) {
	s := newStage(t)
	last, next := digestOf("last"), digestOf("next")
	commit(t, s.DB, "r", last, at(0))
	commit(t, s.DB, "from", next, at(0))
	resume := s.stop(`SELECT 1 FROM blob WHERE digest = $1 FOR UPDATE`, next.String())
	mount := s.begin(1, func() error { return s.MountBlob(t.Context(), "r", "from", next, at(1)) }).mustWait()
	drop := s.begin(2, func() error { return s.DeleteBlob(t.Context(), "r", last, Origin{}, at(1)) })
	resume()
	s.must(drop.end())
	s.must(mount.end())
	if _, err := s.Blob(t.Context(), "r", next); err != nil {
		t.Error(err)
	}
}

// The blob that a push found is deleted before the push has a link to it: the push brings its own.
func TestPostgresCommitMeetsDelete(t *testing.T) {
	s := newStage(t)
	d := digestOf("d")
	old := commit(t, s.DB, "from", d, at(0))
	image(t, s.DB, "r", "other")
	resume := s.stop(fmt.Sprintf(`DELETE FROM repository_blob USING blob b WHERE blob_id = b.id AND b.digest = '%s';
		DELETE FROM repository WHERE name = 'from'; DELETE FROM blob WHERE digest = '%[1]s'`, d))
	n := NewBlob{Repository: "r", Digest: d, Size: 10, Key: newKey(), Whole: old, Now: at(1)}
	push := s.begin(1, func() error { return s.CommitBlob(t.Context(), n) })
	mount := s.begin(2, func() error { return s.MountBlob(t.Context(), "r", "from", d, at(1)) })
	resume()
	s.must(push.end())
	wantErr(t, mount.end(), ErrNotFound)
	if b, err := s.Blob(t.Context(), "r", d); err != nil || b.Key != n.Key {
		t.Errorf("%+v, %v", b, err)
	}
	// The row goes between the two looks of a commit.
	runs := 0
	s.must(s.update(t.Context(), func(t *tx) error {
		if runs++; runs > 1 {
			return nil
		}
		_, err := t.commitAgain(NewBlob{Repository: "r", Digest: digestOf("gone"), Key: newKey(), Now: at(1)})
		return err
	}))
	if runs != 2 {
		t.Errorf("%d runs", runs)
	}
}

// What lock.go says holds for READ COMMITTED, whatever the default is: see TestPostgresSparseManifestMeetsBlob.
func TestPostgresIsolation(t *testing.T) {
	s := newStage(t)
	s.DB = openDB(t, strings.ReplaceAll(mustQuery(t, s.side.Config().ConnString(), "default_transaction_isolation", "repeatable read"), "+", "%20"))
	d := digestOf("late")
	commit(t, s.DB, "from", d, at(0))
	image(t, s.DB, "r", "other", "t")
	n := document{seed: 1, foreign: []oci.Digest{d}}.build(t, "r", at(1), "t")
	resume := s.stop(`SELECT 1 FROM tag FOR UPDATE`)
	put := s.begin(1, func() error { _, err := s.PutManifest(t.Context(), n); return err }).mustWait()
	mount := s.begin(2, func() error { return s.MountBlob(t.Context(), "r", "from", d, at(1)) })
	resume()
	s.must(put.end())
	s.must(mount.end())
	s.protected("r", d)
}
