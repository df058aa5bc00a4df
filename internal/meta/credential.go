package meta

import (
	"context"
	"time"

	"github.com/berthregistry/berth/internal/access"
)

// CredentialKind says what a credential is for.
type CredentialKind string

// The kinds of credentials.
const (
	TokenCredential   CredentialKind = "token"   // a user's personal access token
	SecretCredential  CredentialKind = "secret"  // a robot's
	TrustCredential   CredentialKind = "trust"   // of whoever comes by a trust rule: it has no secret
	RefreshCredential CredentialKind = "refresh" // what docker keeps after it has signed in
	SignInCredential  CredentialKind = "sign-in" // what a person gets who has signed in at a provider
)

// Credential is what an account proves itself with.
type Credential struct {
	access.Credential
	Kind     CredentialKind
	Created  time.Time
	Used     time.Time // zero for never
	UsedFrom string    // the address
}

const credentialColumns = `c.id, c.name, c.actions, c.repositories, c.networks, c.expires_at, c.kind, c.created_at, c.used_at, c.used_from`

func scanCredential(scan func(...any) error, more ...any) (*Credential, error) {
	c := new(Credential)
	var actions, created int64
	var repositories, nets string
	var expires, used *int64
	err := scan(append([]any{&c.ID, &c.Name, &actions, &repositories, &nets, &expires, &c.Kind, &created, &used, &c.UsedFrom}, more...)...)
	if err != nil {
		return nil, err
	}
	c.Actions = access.Actions(actions)
	c.Expires, c.Created, c.Used = timeOf(expires), time.UnixMilli(created), timeOf(used)
	if c.Repositories, err = access.ParsePatterns(repositories); err != nil {
		return nil, err
	}
	c.Networks, err = access.ParseNetworks(nets)
	return c, err
}

// AddCredential gives an account a credential, whose secret has the given hash, and sets its ID. With most above 0, it keeps only so many of
// the newest of the kind. ErrNotFound says that the account is gone.
func (db *DB) AddCredential(ctx context.Context, account int64, c *Credential, hash []byte, most int) error {
	return db.update(ctx, func(t *tx) error {
		if err := t.addCredential(account, c, hash, "FOR KEY SHARE"); err != nil || most <= 0 {
			return err
		}
		_, err := t.exec(`DELETE FROM credential WHERE account_id = $1 AND kind = $2 AND id NOT IN
			(SELECT id FROM credential WHERE account_id = $1 AND kind = $2 ORDER BY id DESC LIMIT $3)`, account, string(c.Kind), most)
		return err
	})
}

// RotateCredential is AddCredential, but the others of the kind expire at a time, if they would not before. Of two at once, the later one
// lets expire what the earlier one has added.
func (db *DB) RotateCredential(ctx context.Context, account int64, c *Credential, hash []byte, expire time.Time) error {
	return db.update(ctx, func(t *tx) error {
		if err := t.addCredential(account, c, hash, "FOR NO KEY UPDATE"); err != nil {
			return err
		}
		_, err := t.exec(`UPDATE credential SET expires_at = $4 WHERE account_id = $1 AND kind = $2 AND id <> $3 AND (expires_at IS NULL OR expires_at > $4)`,
			account, string(c.Kind), c.ID, expire.UnixMilli())
		return err
	})
}

// addCredential locks the account's row as it is told.
func (t *tx) addCredential(account int64, c *Credential, hash []byte, lock string) error {
	t.touchRights()
	var there int64
	if err := t.queryRow(`SELECT id FROM account WHERE id = $1`+t.locking(lock), account).Scan(&there); err != nil {
		return err
	}
	return t.queryRow(`INSERT INTO credential (account_id, kind, name, hash, actions, repositories, networks, created_at, expires_at, used_from)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '') RETURNING id`,
		account, string(c.Kind), asText(c.Name), hash, int64(c.Actions), c.Repositories.String(), c.Networks.String(), c.Created.UnixMilli(),
		nullTime(c.Expires)).Scan(&c.ID)
}

// CredentialByHash returns the credential whose secret has a hash, and its account, or ErrNotFound.
func (db *DB) CredentialByHash(ctx context.Context, hash []byte) (*Credential, *Account, error) {
	var c *Credential
	a, err := scanAccount(func(dest ...any) error {
		var err error
		c, err = scanCredential(db.queryRow(ctx, `SELECT `+credentialColumns+`, `+accountColumns+` FROM credential c
			JOIN account a ON a.id = c.account_id LEFT JOIN organization ao ON ao.id = a.organization_id WHERE c.hash = $1`, hash).Scan, dest...)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return c, a, nil
}

// Credentials returns the credentials of an account, oldest first.
func (db *DB) Credentials(ctx context.Context, account int64) ([]*Credential, error) {
	var all []*Credential
	err := db.query(ctx, func(scan func(...any) error) error {
		c, err := scanCredential(scan)
		all = append(all, c)
		return err
	}, `SELECT `+credentialColumns+` FROM credential c WHERE c.account_id = $1 ORDER BY c.id`, account)
	return all, err
}

// DeleteCredential deletes a credential of an account, or returns ErrNotFound.
func (db *DB) DeleteCredential(ctx context.Context, account, id int64) error {
	return db.update(ctx, func(t *tx) error {
		t.touchRights()
		return t.one(`DELETE FROM credential WHERE account_id = $1 AND id = $2`, account, id)
	})
}

// UsedCredential stores that a credential was used. One that is gone is no error.
func (db *DB) UsedCredential(ctx context.Context, id int64, from string, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		_, err := t.exec(`UPDATE credential SET used_at = $2, used_from = $3 WHERE id = $1 AND (used_at IS NULL OR used_at < $2)`, id, now.UnixMilli(), from)
		return err
	})
}

// DeleteExpiredCredentials deletes up to n credentials that expired before a time and returns how many it were.
func (db *DB) DeleteExpiredCredentials(ctx context.Context, before time.Time, n int) (deleted int, err error) {
	err = db.update(ctx, func(t *tx) error {
		t.touchRights()
		changed, err := t.exec(`DELETE FROM credential WHERE id IN
			(SELECT id FROM credential WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`, before.UnixMilli(), n)
		deleted = int(changed)
		return err
	})
	return deleted, err
}
