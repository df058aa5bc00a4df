package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// standingColumns, and seen_at of an account that is kept elsewhere, are what tells whether Facts that are remembered are still so.
const standingColumns = `v.version, r.id, r.public = 1`

// factsOf returns the columns and joins that ask for Facts: $1 is the account, $2 the credential; o is the organization, r the
// repository. For who did not sign in, who has neither account nor grants, nothing of that is looked for.
func (d dialect) factsOf(account int64) (columns, joins string) {
	grants, found := `NULL`, ` AND FALSE`
	if account != 0 {
		grants = `(SELECT ` + d.jsonRows("g.id, g.team, g.everywhere, g.repositories, g.tags, g.role, g.actions") + ` FROM (` + d.grantsOf() + `) AS g)`
		found = ``
	}
	return standingColumns + `, a.id, a.name, a.robot = 1, a.admin = 1, a.disabled = 1, a.networks, a.expires_at, COALESCE(a.password, ''), a.source, a.seen_at,
			c.id, c.name, c.actions, c.repositories, c.networks, c.expires_at,
			o.id, o.public = 1, o.creation, ` + grants,
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
	s := factsScan{key: factsKey{account, credential, r}}
	if known, ok := db.known.get(s.key); ok {
		seen, join, args := known.seen(account, string(r))
		if err := db.queryRow(ctx, `SELECT `+standingColumns+seen+` FROM `+db.rightsVersion()+` LEFT JOIN repository r ON r.name = $1`+join,
			args...).Scan(append(s.standing(), &s.seen)...); err != nil {
			return nil, s.failed(err)
		}
		if known.stands(&s) {
			return known.facts, nil
		}
	}
	columns, joins := db.factsOf(account)
	if err := db.queryRow(ctx, `SELECT `+columns+` FROM `+db.rightsVersion()+joins+`
		LEFT JOIN organization o ON o.name = $3 LEFT JOIN repository r ON r.name = $4`,
		account, credential, access.Organization(r), string(r)).Scan(s.dest()...); err != nil {
		return nil, s.failed(err)
	}
	f, err := s.facts()
	if err != nil {
		return nil, s.failed(err)
	}
	db.cache.put(k, version, f, 200*len(f.Grants))
	db.known.put(&s, f)
	return f, nil
}

// FactsAndManifest returns Facts, and what Manifest does without body, at once: of a database that others can change, a pull costs
// one question, and another one if rights have changed since the last. The manifest is nil if it is not there.
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
	s := factsScan{key: factsKey{account, credential, r}}
	m := manifestScan{ref: ref}
	if known, ok := db.known.get(s.key); ok {
		seen, join, args := known.seen(account, string(r), ref.String(), int64(cacheMaxBody))
		if err := db.queryRow(ctx, `SELECT `+standingColumns+seen+manifestColumns("$3")+` FROM `+db.rightsVersion()+`
			LEFT JOIN repository r ON r.name = $1`+join+findManifest(ref, "$2"),
			args...).Scan(append(append(s.standing(), &s.seen), m.dest()...)...); err != nil {
			return nil, nil, s.failed(err)
		}
		if known.stands(&s) {
			found, err := m.manifest()
			return known.facts, found, err
		}
	}
	columns, joins := db.factsOf(account)
	if err := db.queryRow(ctx, `SELECT `+columns+manifestColumns("$6")+` FROM `+db.rightsVersion()+joins+`
		LEFT JOIN organization o ON o.name = $3 LEFT JOIN repository r ON r.name = $4`+findManifest(ref, "$5"),
		account, credential, access.Organization(r), string(r), ref.String(), int64(cacheMaxBody)).Scan(append(s.dest(), m.dest()...)...); err != nil {
		return nil, nil, s.failed(err)
	}
	f, err := s.facts()
	if err != nil {
		return nil, nil, s.failed(err)
	}
	db.known.put(&s, f)
	found, err := m.manifest()
	return f, found, err
}

// rightsVersion is a table of one row. With PostgreSQL, the value of its column "version" is another one whenever what Facts are made of has
// changed, repositories and sign-ins aside; with SQLite, where the cache knows, it is null.
func (d dialect) rightsVersion() string {
	if d.postgres {
		return `(SELECT (SELECT CAST(version AS TEXT) FROM rights_version) AS version) AS v`
	}
	return `(SELECT NULL AS version) AS v`
}

// knownFacts remembers Facts of a database that others can change, together with the version of rights that they were read with. They are
// asked for only after the version was read, so nothing that was taken away is answered. A nil knownFacts remembers nothing.
type knownFacts struct {
	entries bounded[factsKey, versionedFacts]
}

type factsKey struct {
	account, credential int64
	repository          oci.Repository
}

type versionedFacts struct {
	version string
	facts   *access.Facts
}

func (k *knownFacts) get(key factsKey) (versionedFacts, bool) {
	if k == nil {
		return versionedFacts{}, false
	}
	return k.entries.get(key)
}

// put remembers what was read, unless an account or a credential is missing, which may be made later with no new version.
func (k *knownFacts) put(s *factsScan, f *access.Facts) {
	if cost := entryCost + 200*len(f.Grants); k != nil && s.version != nil && !f.Lost && cost <= cacheMaxBody {
		k.entries.put(s.key, versionedFacts{*s.version, f}, cost)
	}
}

// seen returns a column, what has to be joined for it, and the arguments with its own: when the account signed in, if Facts tell that.
func (v versionedFacts) seen(account int64, args ...any) (column, join string, _ []any) {
	if v.facts.Source == "" || v.facts.Source == LocalAccounts {
		return `, CAST(NULL AS BIGINT)`, ``, args
	}
	return `, a.seen_at`, ` LEFT JOIN account a ON a.id = $` + strconv.Itoa(len(args)+1), append(args, account)
}

// stands tells whether the facts are still those of the database, of which standing was read.
func (v versionedFacts) stands(s *factsScan) bool {
	same := s.public == v.facts.Public || s.public != nil && v.facts.Public != nil && *s.public == *v.facts.Public
	return s.version != nil && *s.version == v.version && same && (s.repository != nil) == v.facts.Exists && timeOf(s.seen).Equal(v.facts.SignedIn)
}

// manifestScan is where a manifest is scanned to that may not be there.
type manifestScan struct {
	ref               oci.Reference
	digest, mediaType *string
	size              *int64
	body              []byte
}

// manifestColumns are what manifestScan needs; a body that is longer than a parameter says is left out.
func manifestColumns(most string) string {
	return `, m.digest, m.media_type, m.size, CASE WHEN m.size <= ` + most + ` THEN m.body END`
}

// findManifest joins the manifest m of the repository r.
func findManifest(ref oci.Reference, parameter string) string {
	if ref.IsDigest() {
		return ` LEFT JOIN manifest m ON m.repository_id = r.id AND m.digest = ` + parameter
	}
	return ` LEFT JOIN tag t ON t.repository_id = r.id AND t.name = ` + parameter + ` LEFT JOIN manifest m ON m.id = t.manifest_id`
}

func (s *manifestScan) dest() []any { return []any{&s.digest, &s.mediaType, &s.size, &s.body} }

func (s *manifestScan) manifest() (*Manifest, error) {
	if s.digest == nil {
		return nil, nil
	}
	m := &Manifest{MediaType: *s.mediaType, Size: *s.size, Body: s.body}
	if err := m.Digest.UnmarshalText([]byte(*s.digest)); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", s.ref, err)
	}
	return m, nil
}

// factsScan is where the columns of Facts are scanned to.
type factsScan struct {
	key     factsKey
	version *string

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

func (s *factsScan) standing() []any { return []any{&s.version, &s.repository, &s.public} }

func (s *factsScan) dest() []any {
	return append(s.standing(),
		&s.accountID, &s.accountName, &s.robot, &s.admin, &s.disabled, &s.accountNetworks, &s.accountExpires, &s.password, &s.source, &s.seen,
		&s.credentialID, &s.credentialName, &s.actions, &s.repositories, &s.credentials, &s.credentialExpires,
		&s.organization, &s.organizationPublic, &s.creation, &s.grants)
}

func (s *factsScan) failed(err error) error {
	return fmt.Errorf("rights of account %d on %s: %w", s.key.account, s.key.repository, err)
}

func (s *factsScan) facts() (*access.Facts, error) {
	f := &access.Facts{Repository: s.key.repository, Exists: s.repository != nil, Public: s.public}
	f.Lost = s.key.account != 0 && s.accountID == nil || s.key.credential != 0 && s.credentialID == nil
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
