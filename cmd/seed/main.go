package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	ctx := context.Background()
	db, err := meta.Open(ctx, os.Args[1], meta.Options{})
	must(err)
	defer db.Close()
	a, err := auth.New(db, auth.Options{Log: slog.Default(), Service: "berth", TokenLifetime: time.Minute, KeyLifetime: time.Hour})
	must(err)
	now := time.Now()
	user := func(name string, admin, robot bool) int64 {
		h, err := a.HashPassword(ctx, name+"-password")
		must(err)
		acc := &meta.Account{Source: meta.LocalAccounts, Password: h, Created: now}
		acc.Name, acc.Admin, acc.Robot = name, admin, robot
		must(db.CreateAccount(ctx, acc))
		return acc.ID
	}
	user("root", true, false)
	alice := user("alice", false, false)
	user("bob", false, false)
	ci := user("team+ci", false, true)
	must(db.CreateOrganization(ctx, &meta.Organization{Name: "team", Creation: access.CreationPush, Created: now}))
	must(db.CreateOrganization(ctx, &meta.Organization{Name: "open", Public: true, Creation: access.CreationPush, Created: now}))
	grant := func(org, acc string, g access.Grant) {
		must(db.AddGrant(ctx, &meta.Grant{Organization: org, Account: acc, Grant: g}))
	}
	grant("team", "alice", access.Grant{Role: access.Writer, Actions: access.Writer.Actions()})
	grant("open", "alice", access.Grant{Role: access.Owner, Actions: access.Owner.Actions()})
	grant("team", "team+ci", access.Grant{Actions: access.Pull | access.Push})
	grant("team", "team+ci", access.Grant{Actions: access.Overwrite, Tags: access.Patterns{"!v*"}})
	for id, kind := range map[int64]meta.CredentialKind{alice: meta.TokenCredential, ci: meta.SecretCredential} {
		c := &meta.Credential{Kind: kind, Created: now}
		c.Name, c.Actions = "x", access.All
		s, err := a.NewCredential(ctx, id, c)
		must(err)
		fmt.Println(kind, s)
	}
}
