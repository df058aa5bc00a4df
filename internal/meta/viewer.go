package meta

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// Viewer is who looks at the catalog: an account and its credential as in Facts, from where and when.
type Viewer struct {
	Account, Credential int64
	Client              netip.Addr
	Now                 time.Time
}

const (
	viewBatch = 1000   // repositories whose rights are read at once
	maxView   = 20_000 // that are looked at in order to find some
)

// ReadableRepositories returns up to n names after the given one, in ASCII order, of repositories that hold a manifest and that the
// viewer may pull from. With a term, it must be in the name, whatever its case. next is the name to go on after, empty if there
// are no more. There may be fewer names than n, even none, and more to come: no more than 20,000 are looked at.
func (db *DB) ReadableRepositories(ctx context.Context, v Viewer, term, after string, n int) (names []string, next string, err error) {
	names = []string{}
	where, args, possible := listed(term)
	if !possible || n <= 0 {
		return names, "", nil
	}
	for range maxView / viewBatch {
		batch, err := db.viewBatch(ctx, where, append(args, asName(after), viewBatch))
		if err != nil {
			return nil, "", err
		}
		// The rights are read after the names, so that none counts that was taken away before.
		facts, err := db.viewFacts(ctx, v, batch)
		if err != nil {
			return nil, "", err
		}
		for _, r := range batch {
			f := *facts[access.Organization(r.name)]
			f.Repository, f.Exists, f.Public = r.name, true, r.public
			if !f.Decide(access.Question{Action: access.Pull, Client: v.Client, Now: v.Now}).Allowed {
				continue
			}
			if names = append(names, string(r.name)); len(names) == n {
				return names, string(r.name), nil
			}
		}
		if len(batch) < viewBatch {
			return names, "", nil
		}
		after = string(batch[len(batch)-1].name)
	}
	return names, after, nil
}

// viewed is a repository of a batch.
type viewed struct {
	name   oci.Repository
	public *bool
}

// viewBatch returns repositories in the order of their names, which come as one value: see page. Behind each is its own setting.
func (db *DB) viewBatch(ctx context.Context, where string, args []any) ([]viewed, error) {
	marked, err := db.page(ctx, `SELECT name || CASE public WHEN 1 THEN '+' WHEN 0 THEN '!' ELSE '' END AS name FROM
		(SELECT name, public FROM repository WHERE `+where+`) AS page`, args...)
	batch := make([]viewed, len(marked))
	for i, name := range marked {
		bare := strings.TrimRight(name, "+!") // which are in no name
		batch[i].name = oci.Repository(bare)
		if bare != name {
			public := strings.HasSuffix(name, "+")
			batch[i].public = &public
		}
	}
	return batch, err
}

// viewFacts returns the Facts of every organization of a batch, without a repository.
func (db *DB) viewFacts(ctx context.Context, v Viewer, batch []viewed) (map[string]*access.Facts, error) {
	var organizations []string
	for _, r := range batch {
		organizations = append(organizations, access.Organization(r.name))
	}
	slices.Sort(organizations)
	organizations = slices.Compact(organizations)
	facts := make(map[string]*access.Facts, len(organizations))
	if len(organizations) == 0 {
		return facts, nil
	}
	columns, joins := db.factsOf(v.Account)
	err := db.query(ctx, func(scan func(...any) error) error {
		s := factsScan{key: factsKey{v.Account, v.Credential, ""}}
		var organization string
		if err := scan(append(s.dest(), &organization)...); err != nil {
			return err
		}
		var err error
		facts[organization], err = s.facts()
		return err
	}, `SELECT `+columns+`, list.value FROM `+db.list("$3")+` CROSS JOIN `+db.rightsVersion()+joins+`
		LEFT JOIN organization o ON o.name = list.value LEFT JOIN repository r ON r.name = ''`,
		v.Account, v.Credential, jsonOf(organizations))
	return facts, err
}
