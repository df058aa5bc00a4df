package meta

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// A migration that has landed is never edited. A database may be newer than a Berth that has it open: while nodes
// are upgraded one after the other, or when an upgrade is taken back. A migration that only adds says so in a line
//
//	-- compatible: N
//
// which means that a Berth that knows the first N migrations can work with the database after this one. What the old ones
// rely on is taken away by a later migration, in a release that comes after.

//go:embed migrations
var migrations embed.FS

// steps returns the folder of a database's migrations.
func steps(dialect string) fs.FS {
	sub, err := fs.Sub(migrations, path.Join("migrations", dialect))
	if err != nil {
		panic(err) // the name is a constant of this package
	}
	return sub
}

// migrationNames lists migrations in order.
func migrationNames(steps fs.FS) ([]string, error) {
	names, err := fs.Glob(steps, "*.sql")
	slices.Sort(names)
	return names, err
}

var compatibleLine = regexp.MustCompile(`(?m)^-- compatible: (\d+)$`)

// compatible returns the oldest version that can work with a migration's result: its own if it does not say.
func compatible(text []byte, version int) (int, error) {
	m := compatibleLine.FindSubmatch(text)
	if m == nil {
		return version, nil
	}
	n, err := strconv.Atoi(string(m[1]))
	if err == nil && (n < 1 || n > version) {
		err = fmt.Errorf("it says that it is compatible with version %d", n)
	}
	return n, err
}

// schemaVersion returns how many migrations the database has. It fails if this Berth, which knows so many, cannot work with them.
func schemaVersion(t *tx, known int) (int, error) {
	var version int
	if err := t.queryRow(`SELECT COALESCE(MAX(version), 0) FROM schema_migration`).Scan(&version); err != nil {
		return 0, err
	}
	if version <= known {
		return version, nil
	}
	var oldest int
	if err := t.queryRow(`SELECT MAX(COALESCE(compatible, version)) FROM schema_migration`).Scan(&oldest); err != nil {
		return 0, err
	}
	if oldest > known {
		return 0, fmt.Errorf("the schema has version %d, which works with a Berth that knows version %d; this one knows versions up to %d: use the newer Berth that wrote it",
			version, oldest, known)
	}
	return version, nil
}

// wantVersion fails if the schema is older than this Berth, or newer than it can work with.
func wantVersion(t *tx, steps fs.FS) error {
	names, err := migrationNames(steps)
	if err != nil {
		return err
	}
	version, err := schemaVersion(t, len(names))
	if err != nil {
		return err
	}
	if version < len(names) {
		return fmt.Errorf("the schema has version %d, this Berth needs version %d: start the server once, it brings the schema up to date", version, len(names))
	}
	return nil
}

// upgrade brings the schema up to date, forward only. A migration's number is its place in the folder.
func upgrade(t *tx, steps fs.FS) error {
	names, err := migrationNames(steps)
	if err != nil {
		return err
	}
	if _, err := t.exec(`CREATE TABLE IF NOT EXISTS schema_migration (version INTEGER PRIMARY KEY, compatible INTEGER)`); err != nil {
		return err
	}
	if !t.postgres { // databases of the first version lack the column
		var there bool
		if err := t.queryRow(`SELECT COUNT(*) > 0 FROM pragma_table_info('schema_migration') WHERE name = 'compatible'`).Scan(&there); err != nil {
			return err
		}
		if !there {
			if _, err := t.exec(`ALTER TABLE schema_migration ADD COLUMN compatible INTEGER`); err != nil {
				return err
			}
		}
	}
	version, err := schemaVersion(t, len(names))
	if err != nil {
		return err
	}
	for i := version; i < len(names); i++ {
		text, err := fs.ReadFile(steps, names[i])
		if err != nil {
			return err
		}
		oldest, err := compatible(text, i+1)
		if err != nil {
			return fmt.Errorf("migration %s: %w", names[i], err)
		}
		if _, err := t.exec(string(text)); err != nil {
			return fmt.Errorf("migration %s: %w", names[i], err)
		}
		if _, err := t.exec(`INSERT INTO schema_migration (version, compatible) VALUES ($1, $2)`, i+1, oldest); err != nil {
			return fmt.Errorf("migration %s: %w", names[i], err)
		}
	}
	return nil
}

// sqlConn runs statements on a connection of database/sql, or on a transaction.
type sqlConn struct {
	ctx context.Context
	on  interface {
		ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error)
		QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
	}
}

func (c sqlConn) exec(text string, args []any) (int64, error) {
	res, err := c.on.ExecContext(c.ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (c sqlConn) query(text string, args []any) (rows, error) {
	return c.on.QueryContext(c.ctx, text, args...)
}

// migrate brings the schema of a SQLite database up to date, in one transaction.
func migrate(ctx context.Context, db *sql.DB, steps fs.FS) error {
	begun, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer begun.Rollback()
	if err := upgrade(&tx{dialect: sqliteDialect, on: sqlConn{ctx, begun}}, steps); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if err := begun.Commit(); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// checkVersion fails if the schema of a SQLite database is not one that this Berth can work with.
func checkVersion(ctx context.Context, db *sql.DB, steps fs.FS) error {
	return wantVersion(&tx{dialect: sqliteDialect, on: sqlConn{ctx, db}}, steps)
}

const (
	// migrationLock is an advisory lock of two numbers, which are apart from those of one number.
	migrationLock = `SELECT pg_advisory_xact_lock(hashtext('berth'), hashtext('migrate'))`
	// migrationWait is how long a migration waits for a table. Others wait behind it meanwhile.
	migrationWait = 3 * time.Second
)

// migratePostgres brings the schema of a PostgreSQL database up to date, in one transaction. Of several nodes one does, and the
// others wait for it; a node that finds nothing to do waits for nobody.
func migratePostgres(ctx context.Context, c *pgx.Conn, steps fs.FS) error {
	names, err := migrationNames(steps)
	if err != nil {
		return err
	}
	for {
		t := &tx{dialect: postgresDialect, on: pgConn{ctx, c}}
		if done, err := migrated(t, len(names)); done || err != nil {
			return err
		}
		err := func() error {
			for _, text := range []string{`BEGIN`, `SET LOCAL statement_timeout = 0`, `SET LOCAL lock_timeout = 0`, migrationLock,
				fmt.Sprint(`SET LOCAL lock_timeout = `, migrationWait.Milliseconds())} {
				if _, err := t.exec(text); err != nil {
					return err
				}
			}
			if err := upgrade(t, steps); err != nil {
				return err
			}
			_, err := t.exec(`COMMIT`)
			return err
		}()
		if err == nil {
			return nil
		}
		if !c.IsClosed() {
			_, rollback := t.exec(`ROLLBACK`)
			err = cmp.Or(err, rollback)
		}
		if code := sqlState(err); code != lockNotAvailable && code != deadlockDetected {
			return fmt.Errorf("migrate: %w", err)
		}
		// Somebody uses a table for long, such as a backup. Changes go on while this waits.
		select {
		case <-time.After(migrationWait):
		case <-ctx.Done():
			return fmt.Errorf("migrate: %w", errors.Join(ctx.Err(), err))
		}
	}
}

// migrated tells whether a PostgreSQL database has all migrations.
func migrated(t *tx, known int) (bool, error) {
	var there bool
	if err := t.queryRow(`SELECT to_regclass('schema_migration') IS NOT NULL`).Scan(&there); err != nil || !there {
		return false, err
	}
	version, err := schemaVersion(t, known)
	return version >= known, err
}
