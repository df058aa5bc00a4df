package meta

import (
	"slices"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

const cascading = oci.Repository("team/app")

// index pushes an index of manifests.
func index(t *testing.T, db *DB, seed any, children []oci.Digest, tags ...oci.Tag) oci.Digest {
	t.Helper()
	return put(t, db, document{seed: seed, manifests: children}.build(t, cascading, at(0), tags...)).Digest
}

// referrer pushes a manifest with a subject.
func referrer(t *testing.T, db *DB, seed any, subject oci.Digest, tags ...oci.Tag) oci.Digest {
	t.Helper()
	blob := digestOf("blob of a referrer")
	commit(t, db, cascading, blob, at(0))
	return put(t, db, document{seed: seed, blobs: []oci.Digest{blob}, subject: subject, artifact: "test/signature"}.build(t, cascading, at(0), tags...)).Digest
}

func simple(t *testing.T, db *DB, seed any, tags ...oci.Tag) oci.Digest {
	t.Helper()
	return image(t, db, cascading, seed, tags...).Digest
}

func cosignTag(d oci.Digest, suffix string) oci.Tag { return oci.Tag("sha256-" + d.Encoded() + suffix) }

func ordered(tags []CascadeTag) (all []OrderedTag) {
	for _, tag := range tags {
		all = append(all, OrderedTag{CascadeTag: tag})
	}
	return all
}

func orderedManifests(digests ...oci.Digest) (all []OrderedManifest) {
	for _, d := range digests {
		all = append(all, OrderedManifest{Digest: d})
	}
	return all
}

// cascadeOf makes a plan and executes it, and returns which manifests went. What the plan says is what goes.
func cascadeOf(t *testing.T, db *DB, ref oci.Reference) []oci.Digest {
	t.Helper()
	plan, err := db.PlanCascade(t.Context(), cascading, ref)
	must(t, err)
	var manifests []oci.Digest
	for _, m := range plan.Manifests {
		manifests = append(manifests, m.Digest)
	}
	done, err := db.DeleteCascade(t.Context(), cascading, ordered(plan.Tags), orderedManifests(manifests...), nil, Origin{Actor: "tester", Method: "delete"}, at(5))
	must(t, err)
	if len(done.Manifests) != len(manifests) || !slices.Equal(done.Tags, plan.Tags) || done.Bytes != plan.Bytes {
		t.Errorf("the plan was %+v, and came out as %+v", plan, done)
	}
	again, err := db.DeleteCascade(t.Context(), cascading, ordered(plan.Tags), orderedManifests(manifests...), nil, Origin{}, at(6))
	must(t, err)
	if len(again.Tags)+len(again.Manifests) != 0 {
		t.Errorf("executed again it deletes %+v", again)
	}
	audit(t, db)
	return manifests
}

func wantManifests(t *testing.T, what string, got []oci.Digest, want ...oci.Digest) {
	t.Helper()
	sort := func(ds []oci.Digest) []string {
		var texts []string
		for _, d := range ds {
			texts = append(texts, d.String())
		}
		slices.Sort(texts)
		return texts
	}
	if !slices.Equal(sort(got), sort(want)) {
		t.Errorf("%s: %v, expected %v", what, sort(got), sort(want))
	}
}

func left(t *testing.T, db *DB) (all []oci.Digest) {
	t.Helper()
	times, err := db.ManifestTimes(t.Context(), cascading, "", 1000)
	if err != nil {
		wantErr(t, err, ErrNotFound) // the repository went with its last manifest
	}
	for _, m := range times {
		all = append(all, m.Digest)
	}
	return all
}

// What is part of an index stays with it.
func TestCascadeTaggedIndexKeepsUntaggedChildren(t *testing.T) {
	db := newDB(t)
	a, b := simple(t, db, "a"), simple(t, db, "b")
	i := index(t, db, 1, []oci.Digest{a, b}, "v1", "latest")
	wantManifests(t, "a tag of two goes", cascadeOf(t, db, byTag("latest")))
	wantManifests(t, "a child is asked for", cascadeOf(t, db, byDigest(a)))
	wantManifests(t, "left", left(t, db), i, a, b)
}

// An index without a tag goes with its children that have none.
func TestCascadeUntaggedIndexTakesUntaggedChildren(t *testing.T) {
	db := newDB(t)
	a, b := simple(t, db, "a"), simple(t, db, "b")
	i := index(t, db, 1, []oci.Digest{a, b})
	wantManifests(t, "by digest", cascadeOf(t, db, byDigest(i)), i, a, b)
	wantManifests(t, "left", left(t, db))

	// By its last tag, with an index within.
	a, b = simple(t, db, "a"), simple(t, db, "b")
	inner := index(t, db, 1, []oci.Digest{a})
	outer := index(t, db, 2, []oci.Digest{inner, b}, "v1")
	wantManifests(t, "by tag", cascadeOf(t, db, byTag("v1")), outer, inner, a, b)
}

// A child that has a tag stays, and what other indexes need.
func TestCascadeKeepsTaggedAndSharedChildren(t *testing.T) {
	db := newDB(t)
	a, b, shared := simple(t, db, "a", "tagged"), simple(t, db, "b"), simple(t, db, "shared")
	i := index(t, db, 1, []oci.Digest{a, b, shared}, "v1")
	other := index(t, db, 2, []oci.Digest{shared}, "v2")
	wantManifests(t, "an index", cascadeOf(t, db, byTag("v1")), i, b)
	wantManifests(t, "left", left(t, db), a, shared, other)
	wantManifests(t, "the other index", cascadeOf(t, db, byTag("v2")), other, shared)
	wantManifests(t, "the child", cascadeOf(t, db, byTag("tagged")), a)
}

// An index may name what is not there, or not any more.
func TestCascadeOfSparseIndex(t *testing.T) {
	db := newDB(t)
	a, b := simple(t, db, "a"), simple(t, db, "b")
	i := index(t, db, 1, []oci.Digest{a, b, digestOf("never")}, "v1")
	must(t, db.DeleteManifest(t.Context(), cascading, b, nil, Origin{}, at(1)))
	other := index(t, db, 2, []oci.Digest{b, a}, "v2")
	wantManifests(t, "a sparse index", cascadeOf(t, db, byTag("v1")), i)
	wantManifests(t, "left", left(t, db), a, other)
	wantManifests(t, "the other one", cascadeOf(t, db, byTag("v2")), other, a)
}

// Signatures and the like go with what they belong to, and not before.
func TestCascadeOfReferrersAndCosign(t *testing.T) {
	db := newDB(t)
	a := simple(t, db, "a", "v1", "v2")
	sbom := referrer(t, db, "sbom", a)
	signed := referrer(t, db, "signature of the sbom", sbom)
	cosign := simple(t, db, "cosign", cosignTag(a, ".sig"))
	attested := simple(t, db, "attestation of the signature", cosignTag(cosign, ".att"))
	fallback := index(t, db, "referrers tag", []oci.Digest{sbom}, a.ReferrersTag())
	wantManifests(t, "one of two tags", cascadeOf(t, db, byTag("v1")))
	wantManifests(t, "the last tag", cascadeOf(t, db, byTag("v2")), a, sbom, signed, cosign, attested, fallback)
	wantManifests(t, "left", left(t, db))

	// A referrer with a tag of its own needs its subject, and that all that belongs to it.
	a = simple(t, db, "a", "v1")
	sbom = referrer(t, db, "sbom", a, "sbom")
	cosign = simple(t, db, "cosign", cosignTag(a, ".sig"))
	wantManifests(t, "the subject of a kept referrer", cascadeOf(t, db, byTag("v1")))
	wantManifests(t, "left", left(t, db), a, sbom, cosign)
	wantManifests(t, "the referrer", cascadeOf(t, db, byTag("sbom")), sbom)
	wantManifests(t, "the signature alone", cascadeOf(t, db, byTag(cosignTag(a, ".sig"))), cosign)
	wantManifests(t, "the image", cascadeOf(t, db, byDigest(a)), a)

	// A protected signature keeps what it belongs to.
	a = simple(t, db, "a", "v1")
	cosign = simple(t, db, "cosign", cosignTag(a, ".sig"))
	protect(t, db, "team", "*.sig", "kept")
	wantManifests(t, "with a protected signature", cascadeOf(t, db, byTag("v1")))
	wantManifests(t, "left", left(t, db), a, cosign)
	simple(t, db, "a", "kept")
	_, err := db.PlanCascade(t.Context(), cascading, byTag("kept"))
	wantProtected(t, err, "kept")
}

// What has changed since a plan was made is passed over, with all that it needs.
func TestCascadeOfOldPlan(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *DB, oci.Digest, oci.Digest){
		"the tag has moved": func(t *testing.T, db *DB, _, _ oci.Digest) { simple(t, db, "other", "v1"); simple(t, db, "a", "again") },
		"a new tag":         func(t *testing.T, db *DB, _, _ oci.Digest) { simple(t, db, "a", "again") },
		"a new index":       func(t *testing.T, db *DB, a, _ oci.Digest) { index(t, db, 2, []oci.Digest{a}, "v2") },
		"a new referrer":    func(t *testing.T, db *DB, a, _ oci.Digest) { referrer(t, db, 3, a, "newer") },
		"a new signature":   func(t *testing.T, db *DB, a, _ oci.Digest) { simple(t, db, "cosign", cosignTag(a, ".sig")) },
	} {
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			a := simple(t, db, "a", "v1")
			sbom := referrer(t, db, "sbom", a)
			plan, err := db.PlanCascade(t.Context(), cascading, byTag("v1"))
			must(t, err)
			change(t, db, a, sbom)
			before := left(t, db)
			done, err := db.DeleteCascade(t.Context(), cascading, ordered(plan.Tags), orderedManifests(a, sbom), nil, Origin{}, at(1))
			must(t, err)
			if len(done.Manifests) != 0 || len(done.Kept) != 2 {
				t.Errorf("went: %+v", done)
			}
			wantManifests(t, "left", left(t, db), before...)
			audit(t, db)
		})
	}
}

// Layers count once, and only if nobody else needs them.
func TestCascadeBytes(t *testing.T) {
	db := newDB(t)
	common, own, elsewhere := digestOf("common"), digestOf("own"), digestOf("elsewhere")
	for _, d := range []oci.Digest{common, own, elsewhere} {
		commit(t, db, cascading, d, at(0))
	}
	mount(t, db, "other", elsewhere, at(0))
	build := func(seed any, blobs ...oci.Digest) NewManifest {
		return put(t, db, document{seed: seed, blobs: blobs}.build(t, cascading, at(0)))
	}
	a, b := build("a", common, own), build("b", common, elsewhere)
	i := document{seed: 1, manifests: []oci.Digest{a.Digest, b.Digest}}.build(t, cascading, at(0), "v1")
	put(t, db, i)
	bytes := func() int64 {
		t.Helper()
		plan, err := db.PlanCascade(t.Context(), cascading, byTag("v1"))
		must(t, err)
		return plan.Bytes
	}
	manifests := int64(len(a.Body) + len(b.Body) + len(i.Body))
	if got := bytes(); got != manifests+20 {
		t.Errorf("%d bytes would be free, expected %d and two layers", got, manifests)
	}
	build("c", common)
	if got := bytes(); got != manifests+10 {
		t.Errorf("%d bytes would be free, expected %d and one layer", got, manifests)
	}
}

// exerciseCascade calls every method of cascades.
func exerciseCascade(t *testing.T, db *DB) {
	t.Helper()
	a := simple(t, db, "a")
	referrer(t, db, "sbom", a)
	index(t, db, 1, []oci.Digest{a}, "v1")
	plan, err := db.PlanCascade(t.Context(), cascading, byDigest(a))
	must(t, err)
	if len(plan.Manifests) != 0 {
		t.Errorf("what an index needs would go: %+v", plan)
	}
	plan, err = db.PlanCascade(t.Context(), cascading, byTag("v1"))
	must(t, err)
	signature := simple(t, db, "cosign", cosignTag(a, ".sig"))
	tags := append(ordered(plan.Tags), OrderedTag{CascadeTag{cosignTag(a, ".sig"), signature}, Seen{Pushed: at(0)}})
	_, err = db.DeleteCascade(t.Context(), cascading, tags, orderedManifests(plan.Manifests[0].Digest), nil, Origin{}, at(1))
	must(t, err)
}
