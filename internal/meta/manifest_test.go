package meta

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// digests returns the blobs that a manifest names.
func digests(n NewManifest) []oci.Digest {
	var ds []oci.Digest
	for _, d := range n.Parsed.Blobs {
		ds = append(ds, d.Digest)
	}
	return ds
}

func wantMissing(t *testing.T, err error, want ...oci.Digest) {
	t.Helper()
	missing, ok := errors.AsType[*MissingError](err)
	if !ok || !slices.Equal(missing.Digests, want) {
		t.Fatalf("error is %v, want %v to be missing", err, want)
	}
	for _, d := range want {
		if !strings.Contains(err.Error(), d.String()) {
			t.Errorf("%q does not name %s", err, d)
		}
	}
}

func since(t *testing.T, db *DB, r oci.Repository, d oci.Digest) time.Time {
	t.Helper()
	b, err := db.Blob(t.Context(), r, d)
	if err != nil {
		t.Fatalf("blob %s of %s: %v", d, r, err)
	}
	return b.UnreferencedSince
}

func TestManifestAsItWasPushed(t *testing.T) {
	db := newDB(t)
	for i, size := range []int{0, 64<<10 - 600, 64 << 10, 4<<20 - 1000} { // on both sides of what is cached
		r := oci.Repository(fmt.Sprintf("r%d", i))
		d := digestOf(i)
		commit(t, db, r, d, at(0))
		n := put(t, db, document{seed: i, blobs: []oci.Digest{d}, notes: map[string]string{"pad": strings.Repeat("x", size)}}.build(t, r, at(0), "t"))
		for range 2 {
			for _, ref := range []oci.Reference{byTag("t"), byDigest(n.Digest)} {
				for _, body := range []bool{false, true} {
					m, err := db.Manifest(t.Context(), r, ref, body)
					if err != nil || m.Digest != n.Digest || m.MediaType != oci.MediaTypeImage || m.Size != int64(len(n.Body)) {
						t.Fatalf("%s of %d bytes: %+v, %v", ref, size, m, err)
					}
					if body && string(m.Body) != string(n.Body) || !body && m.Body != nil && string(m.Body) != string(n.Body) {
						t.Errorf("%s of %d bytes: the body is not what was pushed", ref, size)
					}
					if !body && len(n.Body) > cacheMaxBody && m.Body != nil {
						t.Errorf("%s of %d bytes: the body was read though nobody asked", ref, size)
					}
				}
			}
		}
		for _, where := range []oci.Repository{"none", oci.Repository(fmt.Sprintf("r%d", i+1))} {
			_, err := db.Manifest(t.Context(), where, byDigest(n.Digest), true)
			wantErr(t, err, ErrNotFound)
		}
		_, err := db.Manifest(t.Context(), r, byTag("none"), true)
		wantErr(t, err, ErrNotFound)
	}
}

func TestPutManifestNeedsItsParts(t *testing.T) {
	db := newDB(t)
	a, b, c := digestOf("a"), digestOf("b"), digestOf("c")
	commit(t, db, "other", a, at(0)) // what another repository has is of no use
	commit(t, db, "r", b, at(0))
	n := document{seed: 1, blobs: []oci.Digest{a, b, c}, foreign: []oci.Digest{digestOf("far")}}.build(t, "r", at(0), "t")
	_, err := db.PutManifest(t.Context(), n)
	wantMissing(t, err, a, c)
	_, err = db.Manifest(t.Context(), "r", byDigest(n.Digest), false)
	wantErr(t, err, ErrNotFound)
	if since(t, db, "r", b).IsZero() {
		t.Error("a push that was refused protects a blob")
	}
	commit(t, db, "r", c, at(0))
	if err := db.MountBlob(t.Context(), "r", "other", a, at(0)); err != nil {
		t.Fatal(err)
	}
	if absent, err := db.PutManifest(t.Context(), n); err != nil || absent != 0 {
		t.Errorf("%d are absent, %v; a foreign layer does not count", absent, err)
	}

	child := document{seed: 2, blobs: []oci.Digest{b}}.build(t, "r", at(0))
	x := document{seed: 3, manifests: []oci.Digest{n.Digest, child.Digest}}.build(t, "r", at(0), "x")
	x.NeedManifests = true
	_, err = db.PutManifest(t.Context(), x)
	wantMissing(t, err, child.Digest)
	x.NeedManifests = false
	if absent, err := db.PutManifest(t.Context(), x); err != nil || absent != 1 {
		t.Errorf("a sparse index: %d are absent, %v", absent, err)
	}
	if absent, err := db.PutManifest(t.Context(), x); err != nil || absent != 0 {
		t.Errorf("again: %d are absent of a manifest that is new, %v", absent, err)
	}
	put(t, db, child)
	y := document{seed: 4, manifests: []oci.Digest{n.Digest, child.Digest, x.Digest}}.build(t, "r", at(0))
	y.NeedManifests = true
	if absent, err := db.PutManifest(t.Context(), y); err != nil || absent != 0 {
		t.Errorf("a whole index, with another in it: %d are absent, %v", absent, err)
	}
	_, err = db.PutManifest(t.Context(), document{seed: 5, blobs: []oci.Digest{digestOf("none")}}.build(t, "fresh", at(0)))
	wantMissing(t, err, digestOf("none"))
	if there, err := db.RepositoryExists(t.Context(), "fresh"); err != nil || there {
		t.Errorf("a push that was refused made its repository: %v, %v", there, err)
	}
}

// Blobs that a manifest lacks are handed to it when they arrive, in whichever way.
func TestMissingBlobsArrive(t *testing.T) {
	db := newDB(t)
	config, pushed, mounted, foreign := digestOf("config"), digestOf("pushed"), digestOf("mounted"), digestOf("foreign")
	commit(t, db, "r", config, at(0))
	commit(t, db, "from", mounted, at(0))
	var ns []NewManifest
	for i := range 2 {
		n := document{seed: i, blobs: []oci.Digest{config, pushed, mounted}, foreign: []oci.Digest{foreign}}.build(t, "r", at(0))
		n.NeedBlobs = false
		if absent, err := db.PutManifest(t.Context(), n); err != nil || absent != 2 {
			t.Fatalf("%d are absent, %v", absent, err)
		}
		ns = append(ns, n)
	}
	if n := count(t, db, "manifest_missing_blob"); n != 6 {
		t.Errorf("%d blobs are waited for, want 6", n)
	}
	commit(t, db, "other", pushed, at(1)) // elsewhere: of no use
	if n := count(t, db, "manifest_missing_blob"); n != 6 {
		t.Errorf("%d blobs are waited for, want 6", n)
	}
	commit(t, db, "r", pushed, at(1))
	commit(t, db, "r", foreign, at(1))
	if err := db.MountBlob(t.Context(), "r", "from", mounted, at(1)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []oci.Digest{config, pushed, mounted, foreign} {
		if s := since(t, db, "r", d); !s.IsZero() {
			t.Errorf("blob %s is needed, but unreferenced since %v", d, s)
		}
		wantErr(t, db.DeleteBlob(t.Context(), "r", d, Origin{}, at(2)), ErrReferenced)
	}
	if n := count(t, db, "manifest_missing_blob"); n != 0 {
		t.Errorf("%d blobs are waited for still", n)
	}
	// They are collected when the last of the two is gone.
	for i, n := range ns {
		collectAll(t, db)
		if s := since(t, db, "r", foreign); !s.IsZero() {
			t.Errorf("with %d manifests left: unreferenced since %v", len(ns)-i, s)
		}
		if err := db.DeleteManifest(t.Context(), "r", n.Digest, nil, Origin{}, at(3)); err != nil {
			t.Fatal(err)
		}
	}
	if s := since(t, db, "r", foreign); !s.Equal(at(3)) {
		t.Errorf("unreferenced since %v", s)
	}
	// A manifest that is deleted waits for nothing.
	n := ns[0]
	if err := db.DeleteBlob(t.Context(), "r", pushed, Origin{}, at(4)); err != nil {
		t.Fatal(err)
	}
	put(t, db, n)
	if err := db.DeleteManifest(t.Context(), "r", n.Digest, nil, Origin{}, at(5)); err != nil {
		t.Fatal(err)
	}
	commit(t, db, "r", pushed, at(6))
	if s := since(t, db, "r", pushed); !s.Equal(at(6)) {
		t.Errorf("unreferenced since %v", s)
	}
}

func TestDeleteManifest(t *testing.T) {
	db := newDB(t)
	shared, own := digestOf("shared"), digestOf("own")
	for _, r := range []oci.Repository{"a", "b"} {
		commit(t, db, r, shared, at(0))
		commit(t, db, r, own, at(0))
	}
	first := put(t, db, document{seed: 1, blobs: []oci.Digest{shared, own}}.build(t, "a", at(0), "t", "u"))
	put(t, db, document{seed: 2, blobs: []oci.Digest{shared}}.build(t, "a", at(0), "v"))
	put(t, db, document{seed: 1, blobs: []oci.Digest{shared, own}}.build(t, "b", at(0), "t"))
	x := put(t, db, document{seed: 3, manifests: []oci.Digest{first.Digest}}.build(t, "a", at(0), "x"))

	if err := db.DeleteManifest(t.Context(), "a", first.Digest, nil, Origin{}, at(9)); err != nil {
		t.Fatal(err)
	}
	if s := since(t, db, "a", own); !s.Equal(at(9)) {
		t.Errorf("the grace period of what nothing needs began at %v", s)
	}
	for r, d := range map[oci.Repository]oci.Digest{"a": shared, "b": own} {
		if s := since(t, db, r, d); !s.IsZero() {
			t.Errorf("blob %s of %s is needed, but unreferenced since %v", d, r, s)
		}
	}
	for _, ref := range []oci.Reference{byTag("t"), byTag("u"), byDigest(first.Digest)} {
		_, err := db.Manifest(t.Context(), "a", ref, false)
		wantErr(t, err, ErrNotFound)
	}
	for r, ref := range map[oci.Repository]oci.Reference{"a": byTag("v"), "b": byTag("t")} {
		if _, err := db.Manifest(t.Context(), r, ref, false); err != nil {
			t.Errorf("%s of %s: %v", ref, r, err)
		}
	}
	if m, err := db.Manifest(t.Context(), "a", byTag("x"), false); err != nil || m.Digest != x.Digest {
		t.Errorf("the index of what was deleted: %+v, %v", m, err)
	}
	wantErr(t, db.DeleteManifest(t.Context(), "a", first.Digest, nil, Origin{}, at(9)), ErrNotFound)
	if got := collectAll(t, db); got != (Collected{Links: 1}) {
		t.Errorf("collected %+v, want one link", got)
	}
	// A repository that had nothing else goes with its last manifest.
	n := put(t, db, document{seed: 4, manifests: []oci.Digest{x.Digest}}.build(t, "c", at(0)))
	if err := db.DeleteManifest(t.Context(), "c", n.Digest, nil, Origin{}, at(9)); err != nil {
		t.Fatal(err)
	}
	if there, err := db.RepositoryExists(t.Context(), "c"); err != nil || there {
		t.Errorf("a repository that holds nothing is there: %v, %v", there, err)
	}
}

func TestReferrers(t *testing.T) {
	db := newDB(t)
	const r = oci.Repository("r")
	subject, blob := digestOf("subject"), digestOf("blob")
	commit(t, db, r, blob, at(0))
	refer := func(seed any, to oci.Digest, artifact string, notes map[string]string) oci.Digest {
		t.Helper()
		return put(t, db, document{seed: seed, blobs: []oci.Digest{blob}, subject: to, artifact: artifact, notes: notes}.build(t, r, at(0))).Digest
	}
	var sbom, all []oci.Digest
	for i := range 10 {
		artifact := [...]string{"application/sbom", "application/signature"}[i%2]
		d := refer(i, subject, artifact, map[string]string{"n": fmt.Sprint(i), "pad": strings.Repeat("x", 100)})
		if all = append(all, d); i%2 == 0 {
			sbom = append(sbom, d)
		}
	}
	refer("other subject", digestOf("other"), "application/sbom", nil)
	commit(t, db, "else", blob, at(0))
	put(t, db, document{seed: 0, blobs: []oci.Digest{blob}, subject: subject}.build(t, "else", at(0)))

	// pages reads all pages and returns what is in them and how many there were.
	pages := func(artifact string, n, bytes int) (found []oci.Digest, pages int) {
		t.Helper()
		after := int64(0)
		for {
			page, more, err := db.Referrers(t.Context(), r, subject, artifact, after, n, bytes)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > n {
				t.Fatalf("%d in a page of %d", len(page), n)
			}
			if pages++; pages > 20 || more && len(page) == 0 {
				t.Fatalf("page %d has %d and says more: %v", pages, len(page), more)
			}
			for _, f := range page {
				found = append(found, f.Descriptor.Digest)
				after = f.ID
			}
			if !more {
				return found, pages
			}
		}
	}
	for _, c := range []struct {
		artifact        string
		n, bytes, pages int
		want            []oci.Digest
	}{
		{"", 100, 1 << 20, 1, all}, {"", 10, 1 << 20, 1, all}, {"", 9, 1 << 20, 2, all}, {"", 3, 1 << 20, 4, all}, {"", 1, 1 << 20, 10, all},
		{"", 100, 0, 10, all}, {"", 100, 320, 5, all}, {"", 100, 10_000, 1, all}, {"", 3, 320, 5, all},
		{"application/sbom", 100, 1 << 20, 1, sbom}, {"application/sbom", 2, 1 << 20, 3, sbom}, {"application/sbom", 100, 1, 5, sbom},
		{"application/none", 100, 1 << 20, 1, nil},
	} {
		if got, pages := pages(c.artifact, c.n, c.bytes); !slices.Equal(got, c.want) || pages != c.pages {
			t.Errorf("%q by %d and %d bytes: %d on %d pages, want %d on %d", c.artifact, c.n, c.bytes, len(got), pages, len(c.want), c.pages)
		}
	}
	page, _, err := db.Referrers(t.Context(), r, subject, "", 0, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	first := page[0].Descriptor
	if first.MediaType != oci.MediaTypeImage || first.ArtifactType != "application/sbom" || first.Size < 100 ||
		!maps.Equal(first.Annotations, map[string]string{"n": "0", "pad": strings.Repeat("x", 100)}) {
		t.Errorf("%+v", first)
	}
	for _, unknown := range []oci.Repository{r, "none"} {
		if page, more, err := db.Referrers(t.Context(), unknown, digestOf("unknown"), "", 0, 10, 10); err != nil || more || len(page) > 0 {
			t.Errorf("of an unknown subject in %s: %v, %v, %v", unknown, page, more, err)
		}
	}
	if err := db.DeleteManifest(t.Context(), r, all[0], nil, Origin{}, at(1)); err != nil {
		t.Fatal(err)
	}
	if got, _ := pages("", 100, 1<<20); !slices.Equal(got, all[1:]) {
		t.Errorf("after a delete there are %d", len(got))
	}
	// A page is bounded by what it holds, wherever that stands.
	for i := range 3 {
		refer(fmt.Sprint("wide", i), subject, strings.Repeat("a", 10_000), nil)
	}
	if got, pages := pages("", 100, 12_000); len(got) != 12 || pages != 3 {
		t.Errorf("wide artifact types: %d on %d pages", len(got), pages)
	}
}
