package meta

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/berthregistry/berth/internal/access"
)

// Of several that do the same at once one succeeds, and the others hear that it exists.
func TestCreatedOnce(t *testing.T) {
	db := newDB(t)
	organization(t, db, "o")
	for what, create := range map[string]func(ctx context.Context) error{
		"account": func(ctx context.Context) error {
			return db.CreateAccount(ctx, &Account{Account: access.Account{Name: "a"}, Source: LocalAccounts})
		},
		"account of a source": func(ctx context.Context) error {
			return db.CreateAccount(ctx, &Account{Account: access.Account{Name: newKey()}, Source: "ldap", Subject: "s"})
		},
		"organization": func(ctx context.Context) error { return db.CreateOrganization(ctx, &Organization{Name: "a"}) },
		"team":         func(ctx context.Context) error { return db.CreateTeam(ctx, &Team{Organization: "o", Name: "a"}) },
		"key": func(ctx context.Context) error {
			return db.AddSigningKey(ctx, SigningKey{ID: newKey(), Private: []byte{1}, From: at(1)}, "")
		},
	} {
		errs := make([]error, 8)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() { errs[i] = create(t.Context()) })
		}
		all.Wait()
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else if !errors.Is(err, ErrExists) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if made != 1 {
			t.Errorf("%s: %d were made", what, made)
		}
	}
}

// A grant that is given again changes in place: at every moment there is exactly one.
func TestGrantIsReplaced(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	organization(t, db, "o")
	ann := users(t, db, "ben", "ann")
	first := grant(t, db, roleOf("ann", "o", access.Reader, "o/a"))
	if g := grant(t, db, roleOf("ann", "o", access.Owner, "o/b")); g.ID == first.ID {
		t.Error("another pattern is the same grant")
	}
	var all sync.WaitGroup
	for _, role := range access.Roles {
		all.Go(func() {
			for range rounds(10) {
				g := roleOf("ann", "o", role, "o/a")
				if err := db.AddGrant(ctx, g); err != nil || g.ID != first.ID {
					t.Errorf("%d, %v", g.ID, err)
				}
				f, err := db.Facts(ctx, ann.ID, 0, "o/a")
				if err != nil || len(f.Grants) != 2 {
					t.Errorf("%+v, %v", f, err)
				}
			}
		})
		all.Go(func() { // what was not there yet is made once
			if err := db.AddGrant(ctx, roleOf("ben", "", role)); err != nil {
				t.Error(err)
			}
			if err := db.AddGrant(ctx, &Grant{Account: "ben"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := count(t, db, "access_grant"); n != 3 {
		t.Errorf("there are %d grants", n)
	}
}

// The last account that administers can neither be deleted nor become less.
func TestLastAdministrator(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	make := func(name string, change func(*Account)) {
		a := &Account{Source: LocalAccounts, Created: at(0)}
		a.Name, a.Admin = name, true
		change(a)
		must(t, db.CreateAccount(ctx, a))
	}
	if there, err := db.HasAdministrator(ctx); err != nil || there {
		t.Errorf("%t, %v", there, err)
	}
	make("robot", func(a *Account) { a.Robot = true })
	make("disabled", func(a *Account) { a.Disabled = true })
	make("passing", func(a *Account) { a.Expires = at(1) })
	make("one", func(*Account) {})
	less := func(name string, change func(*Account)) error {
		return db.ManageAccount(ctx, name, func(a *Account) error { change(a); return nil })
	}
	for _, change := range []func(*Account){
		func(a *Account) { a.Admin = false }, func(a *Account) { a.Disabled = true }, func(a *Account) { a.Expires = at(5) },
	} {
		wantErr(t, less("one", change), ErrLastAdministrator)
	}
	wantErr(t, db.DeleteAccount(ctx, "one"), ErrLastAdministrator)
	must(t, less("one", func(a *Account) { a.Mail = "one@example.com" }))
	must(t, less("disabled", func(a *Account) { a.Admin = false }))
	if there, err := db.HasAdministrator(ctx); err != nil || !there {
		t.Errorf("%t, %v", there, err)
	}
	// Of two who take the last two away, one is refused.
	for round := range 20 {
		names := []string{fmt.Sprint("x", round), fmt.Sprint("y", round)}
		for _, name := range names {
			make(name, func(*Account) {})
		}
		if round == 0 {
			must(t, db.DeleteAccount(ctx, "one"))
		} else {
			for _, name := range []string{"x", "y"} {
				must(t, db.DeleteAccount(ctx, name+fmt.Sprint(round-1)))
			}
		}
		var wg sync.WaitGroup
		errs := [2]error{}
		for i, name := range names {
			wg.Go(func() {
				if i == 0 {
					errs[i] = db.DeleteAccount(ctx, name)
				} else {
					errs[i] = less(name, func(a *Account) { a.Admin = false })
				}
			})
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || errs[0] != nil && !errors.Is(errs[0], ErrLastAdministrator) || errs[1] != nil && !errors.Is(errs[1], ErrLastAdministrator) {
			t.Fatalf("round %d: %v", round, errs)
		}
		if errs[0] == nil {
			make(names[0], func(a *Account) { a.Admin = false })
		}
	}
}
