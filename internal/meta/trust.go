package meta

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/berthregistry/berth/internal/access"
)

// TrustRule says which tokens of an issuer stand for an account, a robot's.
type TrustRule struct {
	ID      int64
	Account string
	// AccountID is the account's; AddTrustRule sets it.
	AccountID int64
	Issuer    string
	Rule      string // JSON
	Created   time.Time
	// Credential is what whoever comes by the rule has, of the kind TrustCredential. It goes with the rule.
	Credential int64
}

const trustRuleColumns = `tr.id, a.id, a.name, tr.issuer, tr.rule, tr.created_at, tr.credential_id`

func (db *DB) trustRules(ctx context.Context, text string, args ...any) ([]*TrustRule, error) {
	var all []*TrustRule
	err := db.query(ctx, func(scan func(...any) error) error {
		r := new(TrustRule)
		var created int64
		err := scan(&r.ID, &r.AccountID, &r.Account, &r.Issuer, &r.Rule, &created, &r.Credential)
		r.Created = time.UnixMilli(created)
		all = append(all, r)
		return err
	}, text, args...)
	return all, err
}

// AddTrustRule adds a rule and sets its ID. ErrNotFound says that the account is not there.
func (db *DB) AddTrustRule(ctx context.Context, r *TrustRule) error {
	return db.update(ctx, func(t *tx) error {
		account, err := t.accountID(r.Account, "FOR KEY SHARE")
		if err != nil {
			return err
		}
		r.AccountID = account
		none := make([]byte, 32) // the hash of no secret
		rand.Read(none)
		if err := t.queryRow(`INSERT INTO credential (account_id, kind, name, hash, actions, repositories, networks, created_at, used_from)
			VALUES ($1, $2, $3, $4, $5, '', '', $6, '') RETURNING id`, account, string(TrustCredential), "trust in "+asText(r.Issuer), none, int64(access.All),
			r.Created.UnixMilli()).Scan(&r.Credential); err != nil {
			return err
		}
		return t.queryRow(`INSERT INTO trust_rule (account_id, credential_id, issuer, rule, created_at) VALUES ($1, $2, $3, $4, $5) RETURNING id`,
			account, r.Credential, asText(r.Issuer), asText(r.Rule), r.Created.UnixMilli()).Scan(&r.ID)
	})
}

// TrustRules returns up to n rules of an issuer after the given ID.
func (db *DB) TrustRules(ctx context.Context, issuer string, after int64, n int) ([]*TrustRule, error) {
	return db.trustRules(ctx, `SELECT `+trustRuleColumns+` FROM trust_rule tr JOIN account a ON a.id = tr.account_id
		WHERE tr.issuer = $1 AND tr.id > $2 ORDER BY tr.id LIMIT $3`, asText(issuer), after, n)
}

// TrustRulesOf returns up to n rules of an account after the given ID.
func (db *DB) TrustRulesOf(ctx context.Context, account string, after int64, n int) ([]*TrustRule, error) {
	return db.trustRules(ctx, `SELECT `+trustRuleColumns+` FROM account a JOIN trust_rule tr ON tr.account_id = a.id
		WHERE a.name = $1 AND tr.id > $2 ORDER BY tr.id LIMIT $3`, asText(account), after, n)
}

// DeleteTrustRule deletes a rule of an account, or returns ErrNotFound.
func (db *DB) DeleteTrustRule(ctx context.Context, account string, id int64) error {
	return db.update(ctx, func(t *tx) error {
		t.touchRights()
		return t.one(`DELETE FROM credential WHERE id = (SELECT tr.credential_id FROM trust_rule tr JOIN account a ON a.id = tr.account_id
			WHERE a.name = $1 AND tr.id = $2)`, asText(account), id)
	})
}
