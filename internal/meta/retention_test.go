package meta

import (
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/policy"
)

func TestRetentionPolicies(t *testing.T) {
	db := newDB(t)
	tags, err := policy.ParseTags([]string{"semver", "!1.*"})
	must(t, err)
	p := &Retention{Retention: policy.Retention{Organization: "team", Repositories: access.Patterns{"team/**"}, Tags: tags,
		Rules: policy.Rules{Newest: 3, Pulled: time.Hour, Minors: 2}}, By: "root", Created: at(3)}
	must(t, db.AddRetention(t.Context(), p))
	all, err := db.Retentions(t.Context(), "team", 0, 10)
	must(t, err)
	if len(all) != 1 || all[0].Rules != p.Rules || all[0].Tags.String() != tags.String() || all[0].Repositories.String() != "team/**" || !all[0].Created.Equal(at(3)) || all[0].By != "root" {
		t.Errorf("policies: %+v", all)
	}
	wantErr(t, db.DeleteRetention(t.Context(), "", p.ID), ErrNotFound)
	must(t, db.DeleteRetention(t.Context(), "team", p.ID))
	wantErr(t, db.DeleteRetention(t.Context(), "team", p.ID), ErrNotFound)
}

// exerciseRetention calls every method of retention.
func exerciseRetention(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	p := new(Retention)
	must(t, db.AddRetention(ctx, p))
	_, err := db.Retentions(ctx, "", 0, 10)
	must(t, err)
	must(t, db.DeleteRetention(ctx, "", p.ID))
	image(t, db, "kept", 1)
	all, err := db.KeptManifests(ctx, "kept", "", 10)
	must(t, err)
	must(t, db.KeptParts(ctx, []int64{all[0].ID}, func(int64, string) error { return nil }, func(int64, int64, int64, bool) error { return nil }))
}
