package meta

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// readAudit returns all entries by pages of n.
func readAudit(t *testing.T, n int, read func(AuditPlace, int) ([]AuditEntry, *AuditPlace, error)) (ids []int64) {
	t.Helper()
	var place AuditPlace
	for {
		page, next, err := read(place, n)
		must(t, err)
		if len(page) > n {
			t.Fatalf("a page of %d has %d", n, len(page))
		}
		for _, e := range page {
			ids = append(ids, e.ID)
		}
		if next == nil {
			return ids
		}
		place = *next
	}
}

func TestAudit(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	var added []AuditEntry
	for i := range 60 {
		added = append(added, AuditEntry{
			AuditPlace: AuditPlace{At: at(int64(i / 2))}, AccountID: int64(i), Actor: fmt.Sprint("a", i%3), Credential: "c\x00", Client: "::1",
			Action: fmt.Sprint("do", i%2), Object: fmt.Sprint("team/app", i%4), Detail: `"'\` + "\xff", Allowed: i%5 > 0,
		})
	}
	must(t, db.AddAudit(ctx, added[30:]))
	must(t, db.AddAudit(ctx, added[:30])) // late
	must(t, db.AddAudit(ctx, nil))
	page, _, err := db.Audit(ctx, AuditFilter{Since: at(29)}, AuditPlace{}, 1)
	want := added[59]
	want.Credential, want.Detail = "c\uFFFD", `"'\`+"\uFFFD"
	if err != nil || len(page) != 1 || page[0].ID == 0 {
		t.Fatalf("%+v, %v", page, err)
	}
	if want.ID = page[0].ID; page[0] != want {
		t.Errorf("%+v, want %+v", page[0], want)
	}
	yes, no := true, false
	for _, f := range []AuditFilter{{}, {Actor: "a1"}, {Object: "team/app2"}, {Prefix: "team/"}, {Prefix: "x"}, {Action: "do1"}, {Allowed: &yes}, {Allowed: &no},
		{Since: at(10), Until: at(20)}, {Actor: "a0", Object: "team/app0", Action: "do0", Allowed: &yes, Since: at(3), Until: at(25)}} {
		matching := 0
		for _, e := range added {
			if (f.Actor == "" || e.Actor == f.Actor) && (f.Object == "" || e.Object == f.Object) && strings.HasPrefix(e.Object, f.Prefix) && (f.Action == "" || e.Action == f.Action) &&
				(f.Allowed == nil || e.Allowed == *f.Allowed) && !e.At.Before(f.Since) && (f.Until.IsZero() || e.At.Before(f.Until)) {
				matching++
			}
		}
		var first []int64
		for _, n := range []int{1, 7, 100} {
			down := readAudit(t, n, func(p AuditPlace, n int) ([]AuditEntry, *AuditPlace, error) { return db.Audit(ctx, f, p, n) })
			up := readAudit(t, n, func(p AuditPlace, n int) ([]AuditEntry, *AuditPlace, error) { return db.AuditAfter(ctx, f, p, n) })
			slices.Reverse(up)
			if len(down) != matching || !slices.Equal(up, down) || first != nil && !slices.Equal(first, down) {
				t.Errorf("%+v by %d: %v and %v, want %d", f, n, down, up, matching)
			}
			first = down
		}
	}
	if n, err := db.DeleteAudit(ctx, at(10), math.MaxInt64, 15); err != nil || n != 15 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := db.DeleteAudit(ctx, at(10), math.MaxInt64, 15); err != nil || n != 5 || count(t, db, "audit") != 40 {
		t.Errorf("%d, %v", n, err)
	}
}

// A change of a repository and its entry are one transaction.
func TestAuditOfChanges(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	o := Origin{Actor: "ann", Method: "push", Audit: true, AccountID: 7, Credential: "token", Client: "10.0.0.1"}
	n := image(t, db, "team/app", 1)
	if count(t, db, "audit") != 0 {
		t.Error("a push without access control was recorded")
	}
	blob := digests(n)[0]
	n = document{seed: 2, blobs: digests(n)}.build(t, "team/app", at(1), "v1", "v2")
	n.Origin = o
	before := db.Stats().Statements
	put(t, db, n)
	used := db.Stats().Statements - before
	plain := document{seed: 3, blobs: digests(n)}.build(t, "team/app", at(1), "v3", "v4")
	before = db.Stats().Statements
	put(t, db, plain)
	if plain := db.Stats().Statements - before; used != plain+1 {
		t.Errorf("a push takes %d statements, with its entry %d", plain, used)
	}
	moved := document{seed: 4, blobs: digests(n)}.build(t, "team/app", at(1), "v1")
	moved.Origin = o
	put(t, db, moved)
	n.Tags = []oci.Tag{"v1"}
	put(t, db, n) // back again
	n.Tags = append(n.Tags, "v2")
	refused := errors.New("refused")
	n.Allow = func(oci.Tag, oci.Digest) error { return refused }
	_, err := db.PutManifest(ctx, n)
	wantErr(t, err, refused) // and is not recorded
	o.Method = "delete"
	must(t, db.DeleteTag(ctx, "team/app", "v2", o, at(2)))
	wantErr(t, db.DeleteTag(ctx, "team/app", "v2", o, at(2)), ErrNotFound)
	must(t, db.DeleteManifest(ctx, "team/app", n.Digest, nil, o, at(3)))
	commit(t, db, "team/app", digestOf("spare"), at(3))
	must(t, db.DeleteBlob(ctx, "team/app", digestOf("spare"), o, at(4)))
	wantErr(t, db.DeleteBlob(ctx, "team/app", blob, o, at(4)), ErrReferenced)
	all, _, err := db.AuditAfter(ctx, AuditFilter{Object: "team/app"}, AuditPlace{}, 10)
	must(t, err)
	var got []string
	for _, e := range all {
		if e.Actor != "ann" || e.AccountID != 7 || e.Credential != "token" || e.Client != "10.0.0.1" || !e.Allowed {
			t.Errorf("%+v", e)
		}
		got = append(got, fmt.Sprint(e.At.Unix()-at(0).Unix(), " ", e.Action, " ", e.Detail))
	}
	want := []string{
		"1 push manifest " + n.Digest.String() + " as v1, v2",
		"1 push manifest " + moved.Digest.String() + " as v1 in place of " + n.Digest.String(),
		"1 push manifest " + n.Digest.String() + " as v1 in place of " + moved.Digest.String(), "2 delete tag v2 of manifest " + n.Digest.String(),
		"3 delete manifest " + n.Digest.String(), "4 delete blob " + digestOf("spare").String(),
	}
	if !slices.Equal(got, want) {
		t.Errorf("recorded are %q, want %q", got, want)
	}
}
