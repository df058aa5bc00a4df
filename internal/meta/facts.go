package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// factsOf returns the columns and joins that ask for Facts: $1 is the account, $2 the credential; o is the organization, r the
// repository. For who did not sign in, who has neither account nor grants, nothing of that is looked for.
func (d dialect) factsOf(account int64) (columns, joins string) {
	grants, found := `NULL`, ` AND FALSE`
	if account != 0 {
		grants = `(SELECT ` + d.jsonRows("g.id, g.team, g.everywhere, g.repositories, g.tags, g.role, g.actions") + ` FROM (` + d.grantsOf() + `) AS g)`
		found = ``
	}
	return `a.id, a.name, a.robot = 1, a.admin = 1, a.disabled = 1, a.networks, a.expires_at, COALESCE(a.password, ''), a.source, a.seen_at,
			c.id, c.name, c.actions, c.repositories, c.networks, c.expires_at,
			r.id, r.public = 1, o.id, o.public = 1, o.creation, ` + grants,
		` LEFT JOIN account a ON a.id = $1` + found + ` LEFT JOIN credential c ON c.id = $2 AND c.account_id = $1` + found
}

// grantsOf are the account's own and those of its teams, in the organization and everywhere. They are found by account and
// team, and never by organization, which may have very many: hence COALESCE, which no index knows.
func (d dialect) grantsOf() string {
	return `SELECT g.id, '' AS team, CAST(g.organization_id IS NULL AS INTEGER) AS everywhere, g.repositories, g.tags, g.role, g.actions
			FROM access_grant g WHERE g.account_id = $1 AND COALESCE(g.organization_id, 0) IN (o.id, 0)
		UNION ALL
		SELECT g.id, (SELECT t.name FROM team t WHERE t.id = g.team_id), CAST(g.organization_id IS NULL AS INTEGER), g.repositories, g.tags, g.role, g.actions
			FROM access_grant g WHERE g.team_id ` + d.in(teamsOf) + ` AND COALESCE(g.organization_id, 0) IN (o.id, 0)`
}

// teamsOf are those that the account was put into, and those of the groups that it has elsewhere.
const teamsOf = `SELECT m.team_id FROM team_member m WHERE m.account_id = $1
	UNION ALL SELECT tg.team_id FROM account_group ag JOIN team_group tg ON tg.source = ag.source AND tg.name = ag.name WHERE ag.account_id = $1`

// Facts returns what rights of an account rest on, for one repository: account 0 stands for who did not sign in, credential
// 0 for a password. The result is shared: it must not be changed.
func (db *DB) Facts(ctx context.Context, account, credential int64, r oci.Repository) (*access.Facts, error) {
	k := cacheKey{repository: r, kind: ofFacts, account: account, credential: credential}
	if v, ok := db.cache.get(k); ok {
		return v.(*access.Facts), nil
	}
	version := db.cache.version(k)
	s := factsScan{account: account, credential: credential}
	columns, joins := db.factsOf(account)
	if err := db.queryRow(ctx, `SELECT `+columns+` FROM (SELECT 1 AS one) AS one`+joins+`
		LEFT JOIN organization o ON o.name = $3 LEFT JOIN repository r ON r.name = $4`,
		account, credential, access.Organization(r), string(r)).Scan(s.dest()...); err != nil {
		return nil, fmt.Errorf("rights of account %d on %s: %w", account, r, err)
	}
	f, err := s.facts(r)
	if err != nil {
		return nil, fmt.Errorf("rights of account %d on %s: %w", account, r, err)
	}
	db.cache.put(k, version, f, 200*len(f.Grants))
	return f, nil
}

// FactsAndManifest returns Facts, and what Manifest does without body, at once: of a database that others can change, a pull costs
// one question. The manifest is nil if it is not there.
func (db *DB) FactsAndManifest(ctx context.Context, account, credential int64, r oci.Repository, ref oci.Reference) (*access.Facts, *Manifest, error) {
	if db.cache != nil {
		f, err := db.Facts(ctx, account, credential, r)
		if err != nil {
			return nil, nil, err
		}
		m, err := db.Manifest(ctx, r, ref, false)
		if errors.Is(err, ErrNotFound) {
			return f, nil, nil
		}
		return f, m, err
	}
	find := `LEFT JOIN tag t ON t.repository_id = r.id AND t.name = $5 LEFT JOIN manifest m ON m.id = t.manifest_id`
	if ref.IsDigest() {
		find = `LEFT JOIN manifest m ON m.repository_id = r.id AND m.digest = $5`
	}
	s := factsScan{account: account, credential: credential}
	var digest, mediaType *string
	var size *int64
	var body []byte
	columns, joins := db.factsOf(account)
	if err := db.queryRow(ctx, `SELECT `+columns+`, m.digest, m.media_type, m.size, CASE WHEN m.size <= $6 THEN m.body END
		FROM (SELECT 1 AS one) AS one`+joins+` LEFT JOIN organization o ON o.name = $3 LEFT JOIN repository r ON r.name = $4 `+find,
		account, credential, access.Organization(r), string(r), ref.String(), int64(cacheMaxBody)).Scan(append(s.dest(), &digest, &mediaType, &size, &body)...); err != nil {
		return nil, nil, fmt.Errorf("rights of account %d on %s: %w", account, r, err)
	}
	f, err := s.facts(r)
	if err != nil {
		return nil, nil, fmt.Errorf("rights of account %d on %s: %w", account, r, err)
	}
	if digest == nil {
		return f, nil, nil
	}
	m := &Manifest{MediaType: *mediaType, Size: *size, Body: body}
	if err := m.Digest.UnmarshalText([]byte(*digest)); err != nil {
		return nil, nil, fmt.Errorf("manifest of %s:%s: %w", r, ref, err)
	}
	return f, m, nil
}

// factsScan is where the columns of Facts are scanned to.
type factsScan struct {
	account, credential int64

	accountID                 *int64
	accountName               *string
	robot, admin, disabled    *bool
	accountNetworks           *string
	accountExpires            *int64
	password, source          *string
	seen                      *int64
	credentialID              *int64
	credentialName            *string
	actions                   *int64
	repositories, credentials *string
	credentialExpires         *int64
	repository                *int64
	public                    *bool
	organization              *int64
	organizationPublic        *bool
	creation                  *string
	grants                    *string
}

func (s *factsScan) dest() []any {
	return []any{
		&s.accountID, &s.accountName, &s.robot, &s.admin, &s.disabled, &s.accountNetworks, &s.accountExpires, &s.password, &s.source, &s.seen,
		&s.credentialID, &s.credentialName, &s.actions, &s.repositories, &s.credentials, &s.credentialExpires,
		&s.repository, &s.public, &s.organization, &s.organizationPublic, &s.creation, &s.grants,
	}
}

func (s *factsScan) facts(r oci.Repository) (*access.Facts, error) {
	f := &access.Facts{Repository: r, Exists: s.repository != nil, Public: s.public}
	f.Lost = s.account != 0 && s.accountID == nil || s.credential != 0 && s.credentialID == nil
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	if s.accountID != nil {
		f.Account = &access.Account{ID: *s.accountID, Name: *s.accountName, Robot: *s.robot, Admin: *s.admin, Disabled: *s.disabled,
			Networks: networks(*s.accountNetworks, note), Expires: timeOf(s.accountExpires), Proof: access.ProofOf(*s.password)}
		if f.Source = *s.source; f.Source != LocalAccounts {
			f.SignedIn = timeOf(s.seen)
		}
	}
	if s.credentialID != nil {
		f.Credential = &access.Credential{ID: *s.credentialID, Name: *s.credentialName, Actions: access.Actions(*s.actions),
			Repositories: patterns(*s.repositories, note), Networks: networks(*s.credentials, note), Expires: timeOf(s.credentialExpires)}
	}
	if s.organization != nil {
		f.OrganizationID, f.OrganizationPublic, f.Creation = *s.organization, *s.organizationPublic, access.Creation(*s.creation)
	}
	if s.grants != nil {
		var rows []grantRow
		note(json.Unmarshal([]byte(*s.grants), &rows))
		for _, g := range rows {
			f.Grants = append(f.Grants, g.grant(note))
		}
	}
	return f, errors.Join(errs...)
}

// grantRow is a grant as jsonRows has it.
type grantRow struct {
	id           int64
	team         string
	everywhere   int
	repositories string
	tags         string
	role         string
	actions      int64
}

// UnmarshalJSON implements json.Unmarshaler.
func (g *grantRow) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&g.id, &g.team, &g.everywhere, &g.repositories, &g.tags, &g.role, &g.actions})
}

func (g *grantRow) grant(note func(error)) access.Grant {
	return access.Grant{ID: g.id, Team: g.team, Everywhere: g.everywhere != 0, Repositories: patterns(g.repositories, note),
		Tags: patterns(g.tags, note), Role: access.Role(g.role), Actions: access.Actions(g.actions)}
}

// patterns and networks read what was checked when it was written.
func patterns(s string, note func(error)) access.Patterns {
	p, err := access.ParsePatterns(s)
	note(err)
	return p
}

func networks(s string, note func(error)) access.Networks {
	n, err := access.ParseNetworks(s)
	note(err)
	return n
}

// timeOf returns a time that may be null, which is the zero time.
func timeOf(ms *int64) time.Time {
	if ms == nil {
		return time.Time{}
	}
	return time.UnixMilli(*ms)
}

// nullTime is the opposite of timeOf.
func nullTime(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	ms := t.UnixMilli()
	return &ms
}

// nullText is null for an empty text.
func nullText(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
