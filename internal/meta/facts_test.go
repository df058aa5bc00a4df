package meta

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
)

// What a node remembers of rights it answers with one statement, as long as nobody anywhere has changed any.
func TestPostgresKnownFacts(t *testing.T) {
	d := service.Postgres(t)
	other, db := openDB(t, d.URL), openDB(t, d.URL)
	ctx := t.Context()
	organization(t, other, "team")
	ann := users(t, other, "ann")
	grant(t, other, roleOf("ann", "team", access.Reader))
	elsewhere := &Account{Account: access.Account{Name: "eve"}, Source: "ldap", Subject: "eve", Created: at(0)}
	must(t, other.CreateAccount(ctx, elsewhere))
	token := newCredential(t, other, ann.ID, TokenCredential, "token", access.Pull)
	n := image(t, other, "team/app", "app", "t")
	last := make(map[oci.Repository]*access.Facts)
	// asked asks for rights, by themselves and with a manifest, and returns whether they were remembered.
	asked := func(r oci.Repository) bool {
		t.Helper()
		known := last[r]
		for i, ref := range []oci.Reference{{}, byTag("t"), byDigest(n.Digest)} {
			before := db.Stats().Statements
			var f *access.Facts
			var m *Manifest
			var err error
			if ref == (oci.Reference{}) {
				f, err = db.Facts(ctx, ann.ID, token.ID, r)
			} else {
				f, m, err = db.FactsAndManifest(ctx, ann.ID, token.ID, r, ref)
			}
			must(t, err)
			if (m != nil) != (ref != (oci.Reference{}) && r == "team/app") || m != nil && m.Digest != n.Digest {
				t.Errorf("the manifest %s of %s is %+v", ref, r, m)
			}
			// The first question of all is one statement; after a change there is one for the version before.
			want := int64(1)
			if i == 0 && known != nil && f != known {
				want = 2
			}
			if got := db.Stats().Statements - before; got != want {
				t.Errorf("%s %s: %d statements, want %d", r, ref, got, want)
			}
			if i > 0 && f != last[r] {
				t.Errorf("%s %s: rights were read again", r, ref)
			}
			last[r] = f
		}
		return known == last[r]
	}
	both := func() (app, none bool) { return asked("team/app"), asked("team/none") }
	if app, none := both(); app || none {
		t.Error("it was known before it was asked for")
	}
	public := true
	for _, tt := range []struct {
		name      string
		do        func() error
		app, none bool // is known after it
	}{
		{"nothing", func() error { return nil }, true, true},
		{"a push", func() error { image(t, other, "team/other", "other", "t"); return nil }, true, true},
		{"a token is used", func() error { return other.UsedCredential(ctx, token.ID, "::1", at(1)) }, true, true},
		{"a sign-in with a password that is kept here", func() error { return other.SignedIn(ctx, ann.ID, LocalAccounts, nil, at(1)) }, true, true},
		{"a sign-in elsewhere", func() error { return other.SignedIn(ctx, elsewhere.ID, "ldap", nil, at(1)) }, true, true},
		{"a new account", func() error { users(t, other, "bob"); return nil }, true, true},
		{"a new token", func() error { newCredential(t, other, ann.ID, TokenCredential, "new", access.Pull); return nil }, true, true},
		{"a repository is made public", func() error { return other.SetRepositoryPublic(ctx, "team/app", &public) }, false, true},
		{"a grant of another account", func() error { return other.AddGrant(ctx, roleOf("bob", "team", access.Reader)) }, false, false},
		{"that account is deleted", func() error { return other.DeleteAccount(ctx, "bob") }, false, false},
		{"nothing again", func() error { return nil }, true, true},
		{"tables are emptied", func() error { d.Exec(t, `TRUNCATE access_grant`); return nil }, false, false},
		{"the database was set back", func() error {
			d.Exec(t, `UPDATE rights_version SET version = gen_random_uuid()`)
			return nil
		}, false, false},
		{"a version that is not there", func() error { d.Exec(t, `DELETE FROM rights_version`); return nil }, false, false},
	} {
		must(t, tt.do())
		if tt.name == "a version that is not there" {
			if f, err := db.Facts(ctx, ann.ID, token.ID, "team/app"); err != nil || f == last["team/app"] {
				t.Errorf("without a version: %v, remembered: %t", err, f == last["team/app"])
			}
			continue
		}
		if app, none := both(); app != tt.app || none != tt.none {
			t.Errorf("%s: known are team/app: %t, team/none: %t", tt.name, app, none)
		}
	}
}

// When an account that is kept elsewhere has signed in there is no matter of the others, but of its own rights.
func TestPostgresKnownSignIn(t *testing.T) {
	d := service.Postgres(t)
	other, db := openDB(t, d.URL), openDB(t, d.URL)
	ctx := t.Context()
	n := image(t, other, "team/app", "app", "t")
	eve := &Account{Account: access.Account{Name: "eve"}, Source: "ldap", Subject: "eve", Created: at(0)}
	must(t, other.CreateAccount(ctx, eve))
	token := newCredential(t, other, eve.ID, TokenCredential, "token", access.Pull)
	for i := range int64(3) {
		must(t, other.SignedIn(ctx, eve.ID, "ldap", nil, at(i)))
		for range 2 {
			for _, ref := range []oci.Reference{byTag("t"), byDigest(n.Digest)} {
				f, m, err := db.FactsAndManifest(ctx, eve.ID, token.ID, "team/app", ref)
				if err != nil || m == nil || m.Digest != n.Digest || !f.SignedIn.Equal(at(i)) {
					t.Fatalf("%+v, %+v, %v", f, m, err)
				}
			}
			before := db.Stats().Statements
			f, err := db.Facts(ctx, eve.ID, token.ID, "team/app")
			if asked := db.Stats().Statements - before; err != nil || !f.SignedIn.Equal(at(i)) || asked != 1 {
				t.Fatalf("%+v, %v after %d statements", f, err, asked)
			}
		}
	}
}

// A right that one node takes away is gone on another, whoever asks there at the same time.
func TestPostgresRightsGoAtOnce(t *testing.T) {
	d := service.Postgres(t)
	one, two := openDB(t, d.URL), openDB(t, d.URL)
	ctx := t.Context()
	organization(t, one, "team")
	ann := users(t, one, "ann")
	image(t, one, "team/app", "app", "t")
	var taken atomic.Int64 // how often the right was taken away, and not yet given again: then it is odd
	var refused, allowed atomic.Int64
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := taken.Load()
				f, _, err := two.FactsAndManifest(ctx, ann.ID, 0, "team/app", byTag("t"))
				if err != nil {
					t.Error(err)
					return
				}
				if len(f.Grants) == 0 {
					refused.Add(1)
				} else if allowed.Add(1); before%2 == 1 && taken.Load() == before {
					t.Error("a right was there after it was taken away")
					return
				}
			}
		})
	}
	for range 100 {
		g := grant(t, one, roleOf("ann", "team", access.Reader))
		for n := allowed.Load(); allowed.Load() < n+4 && !t.Failed(); { // so that it is remembered
			f, err := two.Facts(ctx, ann.ID, 0, "team/app")
			if err != nil || len(f.Grants) != 1 {
				t.Fatalf("%+v, %v", f, err)
			}
		}
		must(t, one.DeleteGrant(ctx, "team", g.ID))
		taken.Add(1)
		for n := refused.Load(); refused.Load() < n+4 && !t.Failed(); {
			f, err := two.Facts(ctx, ann.ID, 0, "team/app")
			if err != nil || len(f.Grants) != 0 {
				t.Fatalf("%+v, %v", f, err)
			}
		}
		taken.Add(1)
	}
	close(stop)
	readers.Wait()
}
