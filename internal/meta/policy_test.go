package meta

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

func protect(t *testing.T, db *DB, organization string, tags ...string) *Protection {
	t.Helper()
	parsed, err := policy.ParseTags(tags)
	must(t, err)
	p := &Protection{Protection: policy.Protection{Organization: organization, Tags: parsed}, By: "root", Created: at(0)}
	must(t, db.AddProtection(t.Context(), p))
	return p
}

func wantProtected(t *testing.T, err error, tag oci.Tag) {
	t.Helper()
	if p, ok := errors.AsType[*policy.ProtectedError](err); !ok || p.Tag != tag {
		t.Errorf("expected tag %s to be protected: %v", tag, err)
	}
}

func wantFrozen(t *testing.T, err error, message string) {
	t.Helper()
	if f, ok := errors.AsType[*policy.FrozenError](err); !ok || f.Freeze.Message != message {
		t.Errorf("expected a freeze that says %q: %v", message, err)
	}
}

// A protected tag neither moves nor goes, however somebody tries.
func TestProtectedTags(t *testing.T) {
	db := newDB(t)
	const r = oci.Repository("team/app")
	one, two := image(t, db, r, 1), image(t, db, r, 2)
	one.Tags, two.Tags = []oci.Tag{"v1", "latest"}, []oci.Tag{"latest"}
	put(t, db, one)
	p := protect(t, db, "team", "v*")
	put(t, db, one) // the same again
	put(t, db, two) // latest is free

	two.Tags = []oci.Tag{"v2", "latest"}
	put(t, db, two) // a new tag is free, too
	two.Tags = []oci.Tag{"v3", "v1"}
	_, err := db.PutManifest(t.Context(), two)
	wantProtected(t, err, "v1")
	if _, err := db.Manifest(t.Context(), r, oci.Reference{Tag: "v3"}, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("a push that was refused has set a tag: %v", err)
	}
	wantProtected(t, db.DeleteTag(t.Context(), r, "v1", Origin{}, at(1)), "v1")
	wantProtected(t, db.DeleteManifest(t.Context(), r, one.Digest, nil, Origin{}, at(1)), "v1")
	wantProtected(t, db.DeleteManifest(t.Context(), r, two.Digest, nil, Origin{}, at(1)), "v2")
	must(t, db.DeleteTag(t.Context(), r, "latest", Origin{}, at(1)))

	// Elsewhere nothing is held; a rule of the whole registry holds everywhere.
	other := image(t, db, "other/app", 1)
	other.Tags = []oci.Tag{"v1"}
	put(t, db, other)
	again := image(t, db, "other/app", 2)
	again.Tags = []oci.Tag{"v1"}
	put(t, db, again)
	all := protect(t, db, "", "*")
	other.Tags = []oci.Tag{"v1"}
	_, err = db.PutManifest(t.Context(), other)
	wantProtected(t, err, "v1")

	got, err := db.Protections(t.Context(), "team", 0, 10)
	must(t, err)
	if len(got) != 1 || got[0].ID != p.ID || got[0].By != "root" || !got[0].Created.Equal(at(0)) || !slices.Equal(got[0].Tags.Texts(), []string{"v*"}) {
		t.Errorf("the protections of the organization are %+v", got)
	}
	if err := db.DeleteProtection(t.Context(), "", p.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("a rule of an organization was deleted as one of the registry: %v", err)
	}
	must(t, db.DeleteProtection(t.Context(), "", all.ID))
	must(t, db.DeleteProtection(t.Context(), "team", p.ID))
	must(t, db.DeleteManifest(t.Context(), r, one.Digest, nil, Origin{}, at(2)))
	put(t, db, other)
}

func TestFreeze(t *testing.T) {
	db := newDB(t)
	const r = oci.Repository("team/app")
	one := image(t, db, r, 1)
	one.Tags = []oci.Tag{"v1"}
	put(t, db, one)
	must(t, db.CheckChange(t.Context(), r))
	freeze := func(organization, message string) {
		t.Helper()
		must(t, db.SetFreeze(t.Context(), &Freeze{Freeze: policy.Freeze{Organization: organization, Message: message}, By: "root", Since: at(5)}))
	}
	freeze("other", "not here")
	must(t, db.CheckChange(t.Context(), r))
	for _, organization := range []string{"team", ""} {
		freeze(organization, "first")
		freeze(organization, "back at six")
		_, err := db.PutManifest(t.Context(), one)
		wantFrozen(t, err, "back at six")
		wantFrozen(t, db.DeleteTag(t.Context(), r, "v1", Origin{}, at(1)), "back at six")
		wantFrozen(t, db.DeleteManifest(t.Context(), r, one.Digest, nil, Origin{}, at(1)), "back at six")
		wantFrozen(t, db.DeleteBlob(t.Context(), r, one.Parsed.Blobs[0].Digest, Origin{}, at(1)), "back at six")
		wantFrozen(t, db.CheckChange(t.Context(), r), "back at six")
		must(t, db.DeleteFreeze(t.Context(), organization))
		must(t, db.CheckChange(t.Context(), r))
		put(t, db, one)
		if err := db.DeleteFreeze(t.Context(), organization); !errors.Is(err, ErrNotFound) {
			t.Errorf("the end of no freeze: %v", err)
		}
	}
	freeze("", "all")
	all, err := db.Freezes(t.Context(), "", 10)
	must(t, err)
	if len(all) != 2 || all[0].Organization != "" || all[1].Message != "not here" || all[1].By != "root" || !all[1].Since.Equal(at(5)) {
		t.Errorf("the freezes are %+v", all)
	}
	rest, err := db.Freezes(t.Context(), "/", 10)
	must(t, err)
	if len(rest) != 1 || rest[0].Organization != "other" {
		t.Errorf("the freezes of organizations are %+v", rest)
	}
}

// Once a freeze is acknowledged, no change ends that began before.
func TestFreezeIsAtOnce(t *testing.T) {
	db := newDB(t)
	const pushers = 4
	repos := []oci.Repository{"team/a", "team/b", "team/c", "team/d"}
	var pushes [pushers][2]NewManifest
	for i, r := range repos {
		pushes[i] = [2]NewManifest{image(t, db, r, 1), image(t, db, r, 2)}
		for j := range pushes[i] {
			pushes[i][j].Tags = []oci.Tag{"latest"}
		}
		put(t, db, pushes[i][0])
	}
	for range rounds(30) {
		var stop atomic.Bool
		var all sync.WaitGroup
		var began sync.WaitGroup
		began.Add(pushers)
		for i := range pushers {
			all.Go(func() {
				for n := 0; !stop.Load(); n++ {
					_, err := db.PutManifest(t.Context(), pushes[i][n%2])
					if _, frozen := errors.AsType[*policy.FrozenError](err); err != nil && !frozen {
						t.Error(err)
					}
					if n == 1 {
						began.Done()
					}
				}
			})
		}
		began.Wait()
		must(t, db.SetFreeze(t.Context(), &Freeze{}))
		moves := count(t, db, "tag_log")
		for i := range pushers { // each has the time for a few changes more
			for j := range 3 {
				_, err := db.PutManifest(t.Context(), pushes[i][j%2])
				wantFrozen(t, err, "")
			}
		}
		stop.Store(true)
		all.Wait()
		if n := count(t, db, "tag_log"); n != moves {
			t.Errorf("%d tags were moved after the freeze", n-moves)
		}
		must(t, db.DeleteFreeze(t.Context(), ""))
	}
}

// exercisePolicies calls every method of policies.
func exercisePolicies(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	p := protect(t, db, "team", "v*")
	_, err := db.Protections(ctx, "team", 0, 10)
	must(t, err)
	must(t, db.DeleteProtection(ctx, "team", p.ID))
	must(t, db.SetFreeze(ctx, &Freeze{Freeze: policy.Freeze{Organization: "team"}}))
	_, err = db.FreezeOf(ctx, "team")
	must(t, err)
	_, err = db.Freezes(ctx, "", 10)
	must(t, err)
	must(t, db.CheckChange(ctx, "other/app"))
	must(t, db.DeleteFreeze(ctx, "team"))
}
