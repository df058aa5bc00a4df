package meta

import (
	"context"
	"errors"
	"time"

	"github.com/berthregistry/berth/internal/access"
)

// ErrExists: something of that name is there already.
var ErrExists = errors.New("it exists already")

// ErrLastAdministrator: without the account, nobody could manage the registry.
var ErrLastAdministrator = errors.New("it is the last administrator")

// LocalAccounts is the source of accounts that are kept here.
const LocalAccounts = "local"

// Account is a user or a robot.
type Account struct {
	access.Account
	Organization string // of a robot that belongs to one
	Source       string // where the account is kept: LocalAccounts, or the name of a directory or issuer
	Subject      string // what it is called there
	DisplayName  string
	Mail         string
	Password     string // its hash, in PHC string format; empty if there is none
	Created      time.Time
	Seen         time.Time // when it last signed in; zero for never
}

const accountColumns = `a.id, a.name, a.robot = 1, a.admin = 1, a.disabled = 1, a.networks, a.expires_at,
	COALESCE(ao.name, ''), a.source, COALESCE(a.subject, ''), a.display_name, a.mail, COALESCE(a.password, ''), a.created_at, a.seen_at`

const accountTables = `account a LEFT JOIN organization ao ON ao.id = a.organization_id`

// scanAccount reads accountColumns.
func scanAccount(scan func(...any) error, more ...any) (*Account, error) {
	a := new(Account)
	var nets string
	var expires, seen *int64
	var created int64
	err := scan(append([]any{&a.ID, &a.Name, &a.Robot, &a.Admin, &a.Disabled, &nets, &expires,
		&a.Organization, &a.Source, &a.Subject, &a.DisplayName, &a.Mail, &a.Password, &created, &seen}, more...)...)
	if err != nil {
		return nil, err
	}
	a.Networks, err = access.ParseNetworks(nets)
	a.Expires, a.Created, a.Seen = timeOf(expires), time.UnixMilli(created), timeOf(seen)
	return a, err
}

// Account returns an account by name, or ErrNotFound.
func (db *DB) Account(ctx context.Context, name string) (*Account, error) {
	return scanAccount(db.queryRow(ctx, `SELECT `+accountColumns+` FROM `+accountTables+` WHERE a.name = $1`, asText(name)).Scan)
}

// AccountByID returns an account, or ErrNotFound.
func (db *DB) AccountByID(ctx context.Context, id int64) (*Account, error) {
	return scanAccount(db.queryRow(ctx, `SELECT `+accountColumns+` FROM `+accountTables+` WHERE a.id = $1`, id).Scan)
}

// AccountOf returns the account that a source other than LocalAccounts knows by a subject, or ErrNotFound.
func (db *DB) AccountOf(ctx context.Context, source, subject string) (*Account, error) {
	return scanAccount(db.queryRow(ctx, `SELECT `+accountColumns+` FROM `+accountTables+` WHERE a.source = $1 AND a.subject = $2`, source, asText(subject)).Scan)
}

// Accounts returns up to n users, or robots, after the given name.
func (db *DB) Accounts(ctx context.Context, robots bool, after string, n int) ([]*Account, error) {
	var all []*Account
	err := db.query(ctx, func(scan func(...any) error) error {
		a, err := scanAccount(scan)
		all = append(all, a)
		return err
	}, `SELECT `+accountColumns+` FROM `+accountTables+` WHERE a.robot = $1 AND a.name > $2 ORDER BY a.name LIMIT $3`, number(robots), asName(after), n)
	return all, err
}

// HasAccounts tells whether there is any account.
func (db *DB) HasAccounts(ctx context.Context) (bool, error) {
	var there bool
	err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM account)`).Scan(&there)
	return there, err
}

// number is how a truth value is stored.
func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// CreateAccount makes an account and sets its ID. ErrExists says that the name is taken, ErrNotFound that the
// organization is not there.
func (db *DB) CreateAccount(ctx context.Context, a *Account) error {
	return db.update(ctx, func(t *tx) error { return t.createAccount(a) })
}

// CreateAccountFor is CreateAccount for whoever knows what a setting is at this moment, which becomes another value: of several at once, one makes an
// account. ErrNotFound says that the setting is something else.
func (db *DB) CreateAccountFor(ctx context.Context, a *Account, setting string, was, becomes []byte) error {
	return db.update(ctx, func(t *tx) error {
		if err := t.one(`UPDATE setting SET value = $3 WHERE name = $1 AND value = $2`, setting, was, becomes); err != nil {
			return err
		}
		return t.createAccount(a)
	})
}

func (t *tx) createAccount(a *Account) error {
	organization, err := t.organizationOf(a.Organization)
	if err != nil {
		return err
	}
	err = t.queryRow(`INSERT INTO account (name, robot, organization_id, source, subject, display_name, mail, password, admin, disabled,
				networks, expires_at, created_at, seen_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING RETURNING id`,
		a.Name, number(a.Robot), organization, a.Source, nullText(asText(a.Subject)), asText(a.DisplayName), asText(a.Mail), nullText(a.Password),
		number(a.Admin), number(a.Disabled), a.Networks.String(), nullTime(a.Expires), a.Created.UnixMilli(), nullTime(a.Seen)).Scan(&a.ID)
	if errors.Is(err, ErrNotFound) {
		return ErrExists
	}
	t.touchRights()
	return err
}

// organizationOf returns the ID of an organization, nil for an empty name, or ErrNotFound.
func (t *tx) organizationOf(name string) (*int64, error) {
	if name == "" {
		return nil, nil
	}
	id, err := t.organizationID(name)
	return &id, err
}

// Administers tells whether an account is one of those of which ManageAccount leaves one: an administrator of the registry, now
// and for ever.
func (a *Account) Administers() bool {
	return a.Admin && !a.Disabled && !a.Robot && a.Expires.IsZero()
}

// administrators are the rows of accounts that administer.
const administrators = `account WHERE admin = 1 AND disabled = 0 AND robot = 0 AND expires_at IS NULL`

// HasAdministrator tells whether there is an account that administers.
func (db *DB) HasAdministrator(ctx context.Context) (bool, error) {
	var there bool
	err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM `+administrators+`)`).Scan(&there)
	return there, err
}

// keepAdministrator fails with ErrLastAdministrator if no account but one administers. The one that it finds stays until the
// change ends. Of two changes that find each other's, one is made anew.
func (t *tx) keepAdministrator(but int64) error {
	var other int64
	err := t.queryRow(`SELECT id FROM `+administrators+` AND id <> $1 ORDER BY id LIMIT 1`+t.locking("FOR UPDATE"), but).Scan(&other)
	if errors.Is(err, ErrNotFound) {
		return ErrLastAdministrator
	}
	return err
}

// ChangeAccount reads an account by name, has change alter it and stores what may be altered: DisplayName, Mail, Password,
// Admin, Disabled, Networks, Expires, Source and Subject. With an error from change nothing happens.
// It returns ErrNotFound if there is no such account. change may run more than once.
func (db *DB) ChangeAccount(ctx context.Context, name string, change func(*Account) error) error {
	return db.update(ctx, func(t *tx) error { return t.changeAccount(name, change, false) })
}

// ManageAccount is ChangeAccount, but leaves an account that administers: else it fails with ErrLastAdministrator.
func (db *DB) ManageAccount(ctx context.Context, name string, change func(*Account) error) error {
	return db.update(ctx, func(t *tx) error { return t.changeAccount(name, change, true) })
}

func (t *tx) changeAccount(name string, change func(*Account) error, keep bool) error {
	a, err := t.account(name, "FOR NO KEY UPDATE OF a")
	if err != nil {
		return err
	}
	before := *a
	if err := change(a); err != nil {
		return err
	}
	if keep && before.Administers() && !a.Administers() {
		if err := t.keepAdministrator(a.ID); err != nil {
			return err
		}
	}
	if a.Password != before.Password { // what was got for it goes with it
		if _, err := t.exec(`DELETE FROM credential WHERE account_id = $1 AND kind = $2`, a.ID, string(RefreshCredential)); err != nil {
			return err
		}
	}
	t.touchRights()
	_, err = t.exec(`UPDATE account SET source = $2, subject = $3, display_name = $4, mail = $5, password = $6, admin = $7, disabled = $8, networks = $9,
		expires_at = $10 WHERE id = $1`, a.ID, a.Source, nullText(asText(a.Subject)), asText(a.DisplayName), asText(a.Mail), nullText(a.Password),
		number(a.Admin), number(a.Disabled), a.Networks.String(), nullTime(a.Expires))
	return err
}

// account returns an account by name and locks its row.
func (t *tx) account(name, lock string) (*Account, error) {
	return scanAccount(t.queryRow(`SELECT `+accountColumns+` FROM `+accountTables+` WHERE a.name = $1`+t.locking(lock), asText(name)).Scan)
}

// DeleteAccount deletes an account and all that hangs on it. It fails with ErrNotFound, or with ErrLastAdministrator if no other
// account administers.
func (db *DB) DeleteAccount(ctx context.Context, name string) error {
	return db.update(ctx, func(t *tx) error {
		a, err := t.account(name, "FOR UPDATE OF a")
		if err != nil {
			return err
		}
		if a.Administers() {
			if err := t.keepAdministrator(a.ID); err != nil {
				return err
			}
		}
		t.touchRights()
		return t.one(`DELETE FROM account WHERE id = $1`, a.ID)
	})
}

// one runs a statement that changes rows, and returns ErrNotFound if it changed none.
func (t *tx) one(text string, args ...any) error {
	n, err := t.exec(text, args...)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// SignedIn stores that an account has signed in and what groups its source says that it has; nil keeps those that are known.
func (db *DB) SignedIn(ctx context.Context, id int64, source string, groups []string, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		if source != LocalAccounts {
			t.touchRights() // tokens may rest on it, see access.Facts.SignedIn
		}
		if err := t.one(`UPDATE account SET seen_at = $2 WHERE id = $1`, id, now.UnixMilli()); err != nil || groups == nil {
			return err
		}
		return t.setGroups(id, source, groups)
	})
}

// SetGroups stores what groups an account's source says that it has. ErrNotFound says that the account is gone.
func (db *DB) SetGroups(ctx context.Context, id int64, source string, groups []string) error {
	return db.update(ctx, func(t *tx) error {
		var there int64
		if err := t.queryRow(`SELECT id FROM account WHERE id = $1`+t.locking("FOR NO KEY UPDATE"), id).Scan(&there); err != nil {
			return err
		}
		return t.setGroups(id, source, groups)
	})
}

// setGroups changes the groups of an account whose row is locked.
func (t *tx) setGroups(id int64, source string, groups []string) error {
	t.touchRights()
	list := jsonOf(texts(groups))
	if _, err := t.exec(`DELETE FROM account_group WHERE account_id = $1
		AND (source <> $2 OR name NOT IN (SELECT list.value FROM `+t.list("$3")+`))`, id, source, list); err != nil {
		return err
	}
	_, err := t.exec(`INSERT INTO account_group (account_id, source, name) SELECT CAST($1 AS BIGINT), $2, list.value FROM `+t.list("$3")+` WHERE true
		ON CONFLICT DO NOTHING`, id, source, list)
	return err
}
