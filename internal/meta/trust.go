package meta

import (
	"context"
	"time"
)

// TrustRule says which tokens of an issuer stand for an account, a robot's.
type TrustRule struct {
	ID      int64
	Account string
	Issuer  string
	Rule    string // JSON
	Created time.Time
}

const trustRuleColumns = `tr.id, a.name, tr.issuer, tr.rule, tr.created_at`

func (db *DB) trustRules(ctx context.Context, text string, args ...any) ([]*TrustRule, error) {
	var all []*TrustRule
	err := db.query(ctx, func(scan func(...any) error) error {
		r := new(TrustRule)
		var created int64
		err := scan(&r.ID, &r.Account, &r.Issuer, &r.Rule, &created)
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
		return t.queryRow(`INSERT INTO trust_rule (account_id, issuer, rule, created_at) VALUES ($1, $2, $3, $4) RETURNING id`,
			account, asText(r.Issuer), asText(r.Rule), r.Created.UnixMilli()).Scan(&r.ID)
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
		return t.one(`DELETE FROM trust_rule WHERE id = $2 AND account_id = (SELECT id FROM account WHERE name = $1)`, asText(account), id)
	})
}
