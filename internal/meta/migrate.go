package meta

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

//go:embed migrations
var migrations embed.FS

// steps returns the folder of a dialect's migrations.
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

type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// schemaVersion returns how many of the migrations the database has.
func schemaVersion(ctx context.Context, q rowQuerier, known int) (int, error) {
	var version int
	if err := q.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM schema_migration`).Scan(&version); err != nil {
		return 0, err
	}
	if version > known {
		return 0, fmt.Errorf("the schema has version %d, this Berth knows versions up to %d: use the newer Berth that wrote it", version, known)
	}
	return version, nil
}

// checkVersion fails if the schema is not the one of this Berth.
func checkVersion(ctx context.Context, db *sql.DB, steps fs.FS) error {
	names, err := migrationNames(steps)
	if err != nil {
		return err
	}
	version, err := schemaVersion(ctx, db, len(names))
	if err != nil {
		return err
	}
	if version < len(names) {
		return fmt.Errorf("the schema has version %d, this Berth needs version %d: start the server once, it brings the schema up to date", version, len(names))
	}
	return nil
}

// migrate brings the schema up to date, forward only, in one transaction. A
// migration's number is its place in the folder; one that has landed is never edited.
func migrate(ctx context.Context, db *sql.DB, steps fs.FS) error {
	names, err := migrationNames(steps)
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_migration (version INTEGER PRIMARY KEY)`); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	version, err := schemaVersion(ctx, tx, len(names))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if version == len(names) {
		return nil
	}
	for i := version; i < len(names); i++ {
		text, err := fs.ReadFile(steps, names[i])
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, string(text)); err != nil {
			return fmt.Errorf("migration %s: %w", names[i], err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO schema_migration (version) VALUES ($1)`, i+1); err != nil {
			return fmt.Errorf("migration %s: %w", names[i], err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
