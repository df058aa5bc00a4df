package meta

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
)

// wantUsage fails if an organization does not use exactly this.
func wantUsage(t testing.TB, db *DB, organization string, want Usage) {
	t.Helper()
	got, err := db.Usage(t.Context(), organization)
	if err != nil || got != want {
		t.Errorf("%s uses %+v, %v; want %+v", organization, got, err, want)
	}
}

func TestUsage(t *testing.T) {
	db := newDB(t)
	shared := digestOf("shared")
	commit(t, db, "team/a", shared, at(0))
	commit(t, db, "team/a", digestOf("own"), at(0))
	wantUsage(t, db, "team", Usage{Bytes: 20, Deduplicated: 20}) // nothing is listed yet
	n := put(t, db, document{blobs: []oci.Digest{shared}}.build(t, "team/a", at(0), "1", "2"))
	size := int64(len(n.Body))
	wantUsage(t, db, "team", Usage{1, 2, 20 + size, 20 + size})

	mount(t, db, "team/b/c", shared, at(0))
	mount(t, db, "team/b/c", shared, at(1)) // again
	mount(t, db, "team", shared, at(0))     // a name of one part
	mount(t, db, "team-mate/a", shared, at(0))
	wantUsage(t, db, "team", Usage{1, 2, 40 + size, 20 + size})
	wantUsage(t, db, "team-mate", Usage{Bytes: 10, Deduplicated: 10})

	moved := put(t, db, document{seed: 1, blobs: []oci.Digest{shared}}.build(t, "team/a", at(1), "2", "3")) // of one tag
	next := int64(len(moved.Body))
	wantUsage(t, db, "team", Usage{1, 3, 40 + size + next, 20 + size + next})
	must(t, db.DeleteTag(t.Context(), "team/a", "3", Origin{}, at(2)))
	must(t, db.DeleteManifest(t.Context(), "team/a", n.Digest, nil, Origin{}, at(2)))
	wantUsage(t, db, "team", Usage{1, 1, 40 + next, 20 + next})
	must(t, db.DeleteBlob(t.Context(), "team/b/c", shared, Origin{}, at(3)))
	wantUsage(t, db, "team", Usage{1, 1, 30 + next, 20 + next})
	collectAll(t, db)
	wantUsage(t, db, "team", Usage{1, 1, 10 + next, 10 + next})
	wantUsage(t, db, "team-mate", Usage{})

	if all, err := db.Usages(t.Context(), "", 10); err != nil || len(all) != 1 || all[0].Organization != "team" {
		t.Errorf("%+v, %v", all, err)
	}
}

// The bytes of a blob that were broken are replaced, by more of them.
func TestUsageOfReplacedBlob(t *testing.T) {
	db := newDB(t)
	d := digestOf("d")
	key := commit(t, db, "a/x", d, at(0))
	mount(t, db, "a/y", d, at(0))
	mount(t, db, "b/x", d, at(0))
	must(t, db.CommitBlob(t.Context(), NewBlob{Repository: "a/z", Digest: d, Size: 17, Key: newKey(), Broken: key, Now: at(1)}))
	wantUsage(t, db, "a", Usage{Bytes: 51, Deduplicated: 17})
	wantUsage(t, db, "b", Usage{Bytes: 17, Deduplicated: 17})
}

// What clients and the collector do at the same time, in any order, is counted as a look at everything counts it.
func TestUsageOfRandomHistory(t *testing.T) {
	db := newDB(t)
	steps := 400
	if testing.Short() {
		steps = 60
	}
	var clients sync.WaitGroup
	for c := range 4 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(uint64(c), 1))
			repository := func() oci.Repository {
				return oci.Repository([]string{"a/x", "a/y", "a", "b/x", "c/d/e", "c/f"}[r.IntN(6)])
			}
			blob := func() oci.Digest { return digestOf(r.IntN(8)) }
			build := func() NewManifest {
				return document{seed: r.IntN(5), blobs: []oci.Digest{blob()}}.build(t, repository(), at(0), oci.Tag(fmt.Sprint("t", r.IntN(4))))
			}
			for i := range steps {
				now := at(int64(i))
				var err error
				switch r.IntN(8) {
				case 0, 1:
					// Which of two objects is kept differs, so the sizes may.
					err = commitBlob(t.Context(), db, NewBlob{Repository: repository(), Digest: blob(), Size: int64(10 + r.IntN(3)), Key: newKey(), Now: now},
						func(string) bool { return r.IntN(3) > 0 })
				case 2:
					err = db.MountBlob(t.Context(), repository(), "", blob(), now)
				case 3, 4:
					_, err = db.PutManifest(t.Context(), build())
				case 5:
					n := build()
					err = db.DeleteManifest(t.Context(), n.Repository, n.Digest, nil, Origin{}, now)
				case 6:
					err = db.DeleteTag(t.Context(), repository(), oci.Tag(fmt.Sprint("t", r.IntN(4))), Origin{}, now)
				case 7:
					var links []UnreferencedBlob
					if links, err = db.UnreferencedBlobs(t.Context(), at(1<<30), 1+r.IntN(5)); err == nil {
						_, err = db.CollectBlobs(t.Context(), links, at(1<<30), now)
					}
				}
				missing, _ := errors.AsType[*MissingError](err)
				if err != nil && missing == nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
				if c == 0 && i%50 == 0 { // while the others go on
					if err := db.CheckUsage(t.Context(), func(e *UsageError) error { return e }); err != nil {
						t.Errorf("after %d steps: %v", i, err)
					}
				}
			}
		})
	}
	clients.Wait()
	if all, err := db.Usages(t.Context(), "", 10); err != nil || len(all) == 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestCheckUsage(t *testing.T) {
	db := newDB(t)
	image(t, db, "a/x", "x", "t")
	image(t, db, "b/x", "x", "t")
	image(t, db, "b/y", "y", "t")
	before, err := db.Usage(t.Context(), "b")
	must(t, err)
	found := func() (names []string) {
		must(t, db.CheckUsage(t.Context(), func(e *UsageError) error { names = append(names, e.Organization); return nil }))
		return names
	}
	if names := found(); names != nil {
		t.Errorf("found %q where nothing is wrong", names)
	}
	for _, text := range []string{
		`UPDATE organization_usage SET tags = tags + 1 WHERE organization = 'b'`,
		`UPDATE organization_usage SET deduplicated = 0 WHERE organization = 'b'`,
		`DELETE FROM organization_usage WHERE organization = 'b'`,
		`UPDATE organization_blob SET links = links + 1 WHERE organization = 'b'`,
		`DELETE FROM organization_blob WHERE organization = 'b'`,
	} {
		must(t, db.update(t.Context(), func(x *tx) error { _, err := x.exec(text); return err }))
		if names := found(); !slices.Equal(names, []string{"b"}) {
			t.Errorf("after %s: found %q", text, names)
		}
		must(t, db.RecountUsage(t.Context()))
		if names := found(); names != nil {
			t.Errorf("%q are still wrong", names)
		}
		wantUsage(t, db, "b", before)
	}
}

// number64 is a limit.
func number64(n int64) *int64 { return &n }

// Of many who push at the same time exactly as many succeed as fit, by whatever is limited.
func TestQuotaIsExact(t *testing.T) {
	const pushers, room = 24, 7
	size := int64(len(document{seed: 10, blobs: []oci.Digest{digestOf(0)}}.build(t, "team/app", at(0)).Body))
	for _, c := range []struct {
		name  string
		quota Quota
		push  func(db *DB, i int) error
		fit   int
	}{
		{"bytes", Quota{Bytes: number64(room*10 + 9)}, func(db *DB, i int) error {
			return db.CommitBlob(t.Context(), NewBlob{Repository: oci.Repository(fmt.Sprint("team/", i)), Digest: digestOf(i), Size: 10, Key: newKey(), Now: at(1)})
		}, room},
		{"mounts", Quota{Bytes: number64(room * 10)}, func(db *DB, i int) error {
			return db.MountBlob(t.Context(), oci.Repository(fmt.Sprint("team/", i)), "", digestOf("other"), at(1))
		}, room},
		{"mounts of what is there", Quota{Bytes: number64(10), Deduplicated: true}, func(db *DB, i int) error {
			return db.MountBlob(t.Context(), oci.Repository(fmt.Sprint("team/", i)), "", digestOf("other"), at(1))
		}, pushers},
		{"manifests", Quota{Bytes: number64(10 + room*size), Deduplicated: true}, func(db *DB, i int) error {
			n := document{seed: 10 + i, blobs: []oci.Digest{digestOf("other")}}.build(t, "team/app", at(1))
			n.NeedBlobs = false
			_, err := db.PutManifest(t.Context(), n)
			return err
		}, room},
		{"tags", Quota{Tags: number64(room)}, func(db *DB, i int) error {
			n := document{blobs: []oci.Digest{digestOf("other")}}.build(t, "team/app", at(1), oci.Tag(fmt.Sprint("t", i)))
			n.NeedBlobs = false
			_, err := db.PutManifest(t.Context(), n)
			return err
		}, room},
		{"repositories", Quota{Repositories: number64(room)}, func(db *DB, i int) error {
			n := document{blobs: []oci.Digest{digestOf("other")}}.build(t, oci.Repository(fmt.Sprint("team/app", i)), at(1), "t", "u")
			n.NeedBlobs = false
			_, err := db.PutManifest(t.Context(), n)
			return err
		}, room},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			commit(t, db, "other/app", digestOf("other"), at(0))
			c.quota.Organization, c.quota.Warn = "team", 80
			must(t, db.SetQuota(t.Context(), c.quota))
			var fit atomic.Int64
			var all sync.WaitGroup
			for i := range pushers {
				all.Go(func() {
					err := c.push(db, i)
					if e, ok := errors.AsType[*QuotaError](err); ok {
						if e.Organization != "team" || e.Needed <= 0 || e.Limit.Used+e.Needed <= e.Limit.Limit {
							t.Errorf("%+v", e)
						}
						return
					}
					if err != nil {
						t.Error(err)
					}
					fit.Add(1)
				})
			}
			all.Wait()
			if fit.Load() != int64(c.fit) {
				t.Errorf("%d of %d have succeeded, want %d", fit.Load(), pushers, c.fit)
			}
			s, err := db.Standing(t.Context(), "team")
			must(t, err)
			for _, l := range s.Quota.Limits(s.Usage) {
				if l.Used > l.Limit {
					t.Errorf("%d of %d %s are used", l.Used, l.Limit, l.Resource)
				}
			}
		})
	}
}

// Where more is used than a quota allows, what needs no more goes on, and so does everybody else.
func TestQuotaBelowUsage(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "team/app", "old", "1")
	must(t, db.SetQuota(t.Context(), Quota{Organization: "team", Bytes: new(int64), Tags: number64(1), Repositories: new(int64), Warn: 80}))
	put(t, db, n)
	commit(t, db, "team/app", digestOf("blob of old"), at(1))
	image(t, db, "other/app", "new", "1", "2")

	more := document{seed: "new", blobs: []oci.Digest{digestOf("blob of old")}}.build(t, "team/app", at(1), "1")
	_, err := db.PutManifest(t.Context(), more)
	if e, ok := errors.AsType[*QuotaError](err); !ok || e.Limit.Resource != ResourceBytes || e.Needed != int64(len(more.Body)) {
		t.Errorf("a new manifest: %v", err)
	}
	n.Tags = []oci.Tag{"2"}
	_, err = db.PutManifest(t.Context(), n)
	if e, ok := errors.AsType[*QuotaError](err); !ok || e.Limit != (Limit{ResourceTags, 1, 1}) || e.Needed != 1 {
		t.Errorf("a new tag: %v", err)
	}
	if _, err := db.Manifest(t.Context(), "team/app", byTag("2"), false); !errors.Is(err, ErrNotFound) {
		t.Errorf("the tag that was refused: %v", err)
	}
	must(t, db.DeleteTag(t.Context(), "team/app", "1", Origin{}, at(2)))
	put(t, db, n)

	must(t, db.DeleteQuota(t.Context(), "team"))
	put(t, db, more)
	wantErr(t, db.DeleteQuota(t.Context(), "team"), ErrNotFound)
}

func TestStanding(t *testing.T) {
	db := newDB(t)
	must(t, db.SetQuota(t.Context(), Quota{Organization: "team", Bytes: number64(20), Deduplicated: true, Tags: number64(5), Warn: 80}))
	var s Standing
	n := NewBlob{Repository: "team/app", Digest: digestOf(1), Size: 15, Key: newKey(), Standing: &s, Now: at(0)}
	must(t, db.CommitBlob(t.Context(), n))
	if near := s.Near(); s.Usage.Deduplicated != 15 || near != nil {
		t.Errorf("%+v, near %v", s, near)
	}
	n.Digest, n.Size, n.Key = digestOf(2), 1, newKey()
	must(t, db.CommitBlob(t.Context(), n))
	if near := s.Near(); len(near) != 1 || near[0] != (Limit{ResourceDeduplicated, 20, 16}) {
		t.Errorf("%+v, near %v", s, near)
	}
	all, err := db.Standings(t.Context(), "", 10)
	if err != nil || len(all) != 1 || all[0].Usage != s.Usage {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := db.Standing(t.Context(), "other"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	must(t, db.CreateOrganization(t.Context(), &Organization{Name: "team", Creation: "push"}))
	must(t, db.DeleteOrganization(t.Context(), "team"))
	if _, err := db.Standing(t.Context(), "team"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the quota of an organization that was deleted: %v", err)
	}
}

func TestCheckRoom(t *testing.T) {
	db := newDB(t)
	old := digestOf("old")
	commit(t, db, "team/app", old, at(0))
	check := func(r oci.Repository, d oci.Digest, size int64, fits bool) {
		t.Helper()
		err := db.CheckRoom(t.Context(), r, d, size)
		if e, ok := errors.AsType[*QuotaError](err); ok == fits || err != nil && e == nil {
			t.Errorf("%d bytes %s for %s: %v", size, d, r, err)
		}
	}
	check("team/app", digestOf("new"), 1<<60, true) // there is no quota
	must(t, db.SetQuota(t.Context(), Quota{Organization: "team", Bytes: number64(15), Warn: 80}))
	check("team/app", digestOf("new"), 5, true)
	check("team/app", digestOf("new"), 6, false)
	check("team/app", oci.Digest{}, 6, false)
	check("team/app", old, 10, true)
	check("team/other", old, 10, false)
	check("other/app", old, 10, true)
	must(t, db.SetQuota(t.Context(), Quota{Organization: "team", Bytes: number64(15), Deduplicated: true, Warn: 80}))
	check("team/other", digestOf("new"), 6, false)
	check("team/other", old, 10, true)
	check("team/other", oci.Digest{}, 6, true) // it may be the old one
	must(t, db.SetQuota(t.Context(), Quota{Organization: "team", Tags: number64(15), Warn: 80}))
	check("team/app", digestOf("new"), 1<<60, true)
}

func TestSpace(t *testing.T) {
	db := newDB(t)
	ctx := context.Background()
	base, spare := digestOf("base"), digestOf("spare")
	for _, r := range []oci.Repository{"team", "team/a", "team/b", "team-mate/a"} {
		commit(t, db, r, base, at(0))
	}
	for _, d := range []oci.Digest{digestOf(1), digestOf(2), digestOf(3), spare} {
		commit(t, db, "team/a", d, at(0))
	}
	size := func(n NewManifest) int64 { return int64(len(n.Body)) }
	one := put(t, db, document{seed: 1, blobs: []oci.Digest{base, digestOf(1)}}.build(t, "team/a", at(0), "one"))
	two := put(t, db, document{seed: 2, blobs: []oci.Digest{base, digestOf(2), digestOf(3)}}.build(t, "team/a", at(0)))
	both := put(t, db, document{seed: 3, manifests: []oci.Digest{one.Digest, two.Digest, digestOf("absent")}}.build(t, "team/a", at(0), "both"))
	small := put(t, db, document{seed: 4, blobs: []oci.Digest{digestOf(3)}}.build(t, "team/a", at(0), "small", "tiny"))
	manifests := size(one) + size(two) + size(both) + size(small)

	want := []RepositorySpace{
		{"team", 0, Space{0, 1, 10, 0}, 0},
		{"team/a", 4, Space{4, 5, 50 + manifests, 40 + manifests}, 0},
		{"team/b", 0, Space{0, 1, 10, 0}, 0},
	}
	all, err := db.RepositorySpaces(ctx, "team", "", 10)
	if err != nil || !slices.Equal(all, want) {
		t.Errorf("%+v, %v; want %+v", all, err, want)
	}
	for i := range want { // one by one
		after := ""
		if i > 0 {
			after = string(want[i-1].Repository)
		}
		if all, err := db.RepositorySpaces(ctx, "team", after, 1); err != nil || !slices.Equal(all, want[i:i+1]) {
			t.Errorf("%+v, %v; want %+v", all, err, want[i:i+1])
		}
	}
	if shared, err := db.SharedBytes(ctx, "team"); err != nil || shared != 10 {
		t.Errorf("%d bytes are shared, %v", shared, err)
	}

	tags := []TagSpace{
		{"both", both.Digest, Space{3, 4, 40 + size(one) + size(two) + size(both), 10 + size(two) + size(both)}}, // not what one and small need
		{"one", one.Digest, Space{1, 2, 20 + size(one), 0}},                                                      // both needs it
		{"small", small.Digest, Space{1, 1, 10 + size(small), 0}},
		{"tiny", small.Digest, Space{1, 1, 10 + size(small), 0}},
	}
	got, err := db.TagSpaces(ctx, "team/a", "", 10)
	if err != nil || !slices.Equal(got, tags) {
		t.Errorf("%+v, %v; want %+v", got, err, tags)
	}
	if s, err := db.TagSpace(ctx, "team/a", "one"); err != nil || s != tags[1] {
		t.Errorf("%+v, %v", s, err)
	}
	_, err = db.TagSpace(ctx, "team/a", "none")
	wantErr(t, err, ErrNotFound)
	_, err = db.TagSpaces(ctx, "team/none", "", 10)
	wantErr(t, err, ErrNotFound)

	// What the delete of a tag's image was to free is freed.
	before, err := db.Usage(ctx, "team")
	must(t, err)
	for _, d := range []oci.Digest{both.Digest, two.Digest} {
		must(t, db.DeleteManifest(ctx, "team/a", d, nil, Origin{}, at(1)))
	}
	links, err := db.UnreferencedBlobs(ctx, at(1<<30), 100)
	must(t, err)
	links = slices.DeleteFunc(links, func(u UnreferencedBlob) bool { return u.Digest == spare || u.Digest == base })
	_, err = db.CollectBlobs(ctx, links, at(1<<30), at(2))
	must(t, err)
	after, err := db.Usage(ctx, "team")
	if must(t, err); before.Deduplicated-after.Deduplicated != tags[0].Alone {
		t.Errorf("%d bytes were freed, %d were foretold", before.Deduplicated-after.Deduplicated, tags[0].Alone)
	}
}

// What only the trash needs is told, and is free when that is emptied.
func TestTrashSpace(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	base := digestOf("base")
	for _, r := range []oci.Repository{"team/a", "team/b"} {
		commit(t, db, r, base, at(0))
	}
	for _, d := range []oci.Digest{digestOf(1), digestOf(2), digestOf(3)} {
		commit(t, db, "team/a", d, at(0))
	}
	size := func(n NewManifest) int64 { return int64(len(n.Body)) }
	one := put(t, db, document{seed: 1, blobs: []oci.Digest{base, digestOf(1)}}.build(t, "team/a", at(0), "one"))
	two := put(t, db, document{seed: 2, blobs: []oci.Digest{base, digestOf(2), digestOf(3)}}.build(t, "team/a", at(0), "two"))
	three := put(t, db, document{seed: 3, blobs: []oci.Digest{digestOf(2), digestOf(3)}}.build(t, "team/a", at(0), "three"))
	other := put(t, db, document{seed: 4, blobs: []oci.Digest{base}}.build(t, "team/b", at(0), "other"))
	check := func(trash, alone int64, total TrashTotal) {
		t.Helper()
		s, err := db.RepositorySpace(ctx, "team/a")
		if err != nil || s.Trash != trash || s.Alone != alone || s.Bytes != alone+10 {
			t.Errorf("%+v, %v; want %d that only the trash needs, %d alone", s, err, trash, alone)
		}
		if got, err := db.TrashTotal(ctx, 1); err != nil || got != total {
			t.Errorf("%+v, %v; want %+v", got, err, total)
		}
	}
	all := 30 + size(one) + size(two) + size(three)
	check(0, all, TrashTotal{})
	trashed(t, db, two, 1)
	check(size(two), all, TrashTotal{1, size(two), false})
	trashed(t, db, three, 2) // now both blobs, though each of two manifests needs them
	held := 20 + size(two) + size(three)
	check(held, all, TrashTotal{2, held, false})
	trashed(t, db, other, 2)
	check(held, all, TrashTotal{2, held, true})

	before, err := db.Usage(ctx, "team")
	must(t, err)
	_, err = db.EmptyTrash(ctx, "team/a", oci.Digest{}, 10, Origin{}, at(3))
	must(t, err)
	links, err := db.UnreferencedBlobs(ctx, at(1<<30), 100)
	must(t, err)
	_, err = db.CollectBlobs(ctx, links, at(1<<30), at(4))
	must(t, err)
	after, err := db.Usage(ctx, "team")
	if must(t, err); before.Deduplicated-after.Deduplicated != held {
		t.Errorf("%d bytes were freed, %d were foretold", before.Deduplicated-after.Deduplicated, held)
	}
	check(0, all-held, TrashTotal{1, size(other), false})
}

// beforeUsage is content of a database that did not know usage.
var beforeUsage = []string{
	`INSERT INTO repository (id, name, created_at) VALUES (1, 'a/x', 0), (2, 'a/y', 0), (3, 'a', 0), (4, 'b/x/y', 0), (5, 'empty/app', 0)`,
	`INSERT INTO blob (id, digest, size, storage_key, created_at) VALUES (1, 'sha256:01', 100, 'k1', 0), (2, 'sha256:02', 20, 'k2', 0)`,
	`INSERT INTO repository_blob (repository_id, blob_id, unreferenced_since) VALUES (1, 1, 5), (2, 1, 5), (3, 1, 5), (4, 1, 5), (1, 2, 5)`,
	`INSERT INTO manifest (id, repository_id, digest, media_type, size, artifact_type, created_at, body)
		VALUES (1, 1, 'd', 'm', 3, '', 0, ''), (2, 1, 'e', 'm', 4, '', 0, ''), (3, 4, 'd', 'm', 3, '', 0, '')`,
	`INSERT INTO tag (repository_id, name, manifest_id, updated_at) VALUES (1, 's', 1, 0), (1, 't', 1, 0), (4, 't', 3, 0)`,
	`INSERT INTO tag_log (repository_id, repository, tag, new_digest, at, actor, method)
		VALUES (1, 'a/x', 's', 'd', 0, '', 'push'), (1, 'a/x', 't', 'd', 0, '', 'push'), (4, 'b/x/y', 't', 'd', 0, '', 'push')`,
	`UPDATE repository SET public = 0 WHERE id = 5`,
}

// wantAfterUsage fails unless the content is counted, and goes on to be.
func wantAfterUsage(t *testing.T, db *DB) {
	t.Helper()
	wantUsage(t, db, "a", Usage{1, 2, 327, 127})
	wantUsage(t, db, "b", Usage{1, 1, 103, 103})
	wantUsage(t, db, "empty", Usage{})
	must(t, db.CheckUsage(t.Context(), func(e *UsageError) error { return e }))
	commit(t, db, "empty/app", digestOf("new"), at(0))
	commit(t, db, "a/x", digestOf("new"), at(0))
	wantUsage(t, db, "a", Usage{1, 2, 337, 137})
	wantUsage(t, db, "empty", Usage{Bytes: 10, Deduplicated: 10})
}

func TestSQLiteUpgradeToUsage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	old := raw(t, path)
	must(t, migrate(t.Context(), old, olderSteps(t, "sqlite", "0006_policy.sql")))
	for _, s := range beforeUsage {
		if _, err := old.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	must(t, old.Close())
	wantAfterUsage(t, openDB(t, path))
}

func TestPostgresUpgradeToUsage(t *testing.T) {
	d := service.Postgres(t)
	c, err := pgx.Connect(t.Context(), d.URL)
	must(t, err)
	defer c.Close(context.Background())
	must(t, migratePostgres(t.Context(), c, olderSteps(t, "postgres", "0004_policy.sql")))
	for _, s := range beforeUsage {
		if _, err := c.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	wantAfterUsage(t, openDB(t, d.URL))
}
