package meta

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// RepositoryExists tells whether anything was ever pushed to the repository and
// not all of it has been collected.
func (db *DB) RepositoryExists(ctx context.Context, r oci.Repository) (bool, error) {
	_, err := db.repositoryID(ctx, r)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (db *DB) repositoryID(ctx context.Context, r oci.Repository) (int64, error) {
	var id int64
	err := db.queryRow(ctx, `SELECT id FROM repository WHERE name = $1`, string(r)).Scan(&id)
	return id, err
}

// Repositories returns up to n names after the given one, in ASCII order, of
// repositories that hold a manifest.
func (db *DB) Repositories(ctx context.Context, after string, n int) ([]string, error) {
	return db.SearchRepositories(ctx, "", after, n)
}

// SearchRepositories returns up to n names of repositories that hold a manifest
// and whose name contains term, whatever its case, in ASCII order after the given name.
func (db *DB) SearchRepositories(ctx context.Context, term, after string, n int) ([]string, error) {
	where, args, possible := listed(term)
	if !possible {
		return []string{}, nil
	}
	return db.page(ctx, `SELECT name FROM repository WHERE `+where, append(args, asName(after), n)...)
}

// listed returns the condition, order and limit of a page of repositories that hold a manifest and whose name contains a term. The
// name that it begins after and the limit are to be appended to the arguments. It returns false if no name can have the term.
func listed(term string) (where string, args []any, possible bool) {
	if term == "" {
		return `listed = 1 AND name > $1 ORDER BY name LIMIT $2`, nil, true
	}
	term = strings.ToLower(term)
	if asName(term) != term {
		return "", nil, false // no name has such characters
	}
	pattern := "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(term) + "%"
	return `listed = 1 AND name LIKE $1 ESCAPE '\' AND name > $2 ORDER BY name LIMIT $3`, []any{pattern}, true
}

// asName returns a text that the names of repositories and tags, which are ASCII, sort after exactly if they sort after s.
// PostgreSQL takes neither NUL nor what is not UTF-8.
func asName(s string) string {
	for i := range len(s) {
		switch {
		case s[i] == 0:
			return s[:i]
		case s[i] > '~':
			return s[:i] + "\x7f"
		}
	}
	return s
}

// page collects the column called name of a query. The names, which have no comma, come as
// one value, because a row for each costs three times as much.
func (db *DB) page(ctx context.Context, text string, args ...any) ([]string, error) {
	var all *string
	if err := db.queryRow(ctx, `SELECT string_agg(name, ',') FROM (`+text+`) AS page`, args...).Scan(&all); err != nil {
		return nil, err
	}
	if all == nil {
		return []string{}, nil
	}
	names := strings.Split(*all, ",")
	slices.Sort(names) // they are sorted, but an aggregate does not promise it
	return names, nil
}

// scopeBounds returns what the names of a scope lie between, the first included: the repository of that name, or those whose names begin with
// it if it ends in '/', or all if it is empty.
func scopeBounds(scope string) (low, high string) {
	switch {
	case scope == "":
		return "", "\x7f"
	case strings.HasSuffix(scope, "/"):
		return scope, strings.TrimSuffix(scope, "/") + "0" // which comes after '/'
	}
	return scope, scope + "!" // which comes before all that a name can have
}

// names collects one column of text.
func (db *DB) names(ctx context.Context, text string, args ...any) ([]string, error) {
	names := []string{}
	var name string
	err := db.query(ctx, func(scan func(...any) error) error {
		if err := scan(&name); err != nil {
			return err
		}
		names = append(names, name)
		return nil
	}, text, args...)
	return names, err
}

// repositoryID finds a repository's row, or ErrNotFound.
func (t *tx) repositoryID(r oci.Repository) (int64, error) {
	var id int64
	err := t.queryRow(`SELECT id FROM repository WHERE name = $1`, string(r)).Scan(&id)
	return id, err
}

// makeRepository finds a repository's row or makes it, and locks it if the caller wants to change manifests or tags. The guard
// watches what the caller adds, and is to be asked at the end; it is nil if the organization has no quota.
func (t *tx) makeRepository(r oci.Repository, now time.Time, lock bool) (id int64, g *guard, err error) {
	organization := access.Organization(r)
	text := `SELECT r.id, EXISTS (SELECT 1 FROM quota q WHERE q.organization = $2) FROM repository r WHERE r.name = $1`
	if lock {
		text += t.locking("FOR NO KEY UPDATE OF r")
	}
	var limited bool
	err = t.queryRow(text, string(r), organization).Scan(&id, &limited)
	if errors.Is(err, ErrNotFound) {
		if _, err := t.exec(`INSERT INTO repository (name, created_at) VALUES ($1, $2)
			ON CONFLICT (name) DO NOTHING`, string(r), now.UnixMilli()); err != nil {
			return 0, nil, err
		}
		t.touch(r)
		err = t.queryRow(text, string(r), organization).Scan(&id, &limited)
		if errors.Is(err, ErrNotFound) {
			return 0, nil, errAgain // another one made it and dropped it
		}
	}
	if err == nil && limited {
		g, err = t.guard(organization)
	}
	return id, g, err
}

// dropIfEmpty deletes a repository that holds nothing any more, not even a setting or something in its trash (the trigger
// trash_keeps_repository sees to that), and returns how many it were. The caller has the lock
// on the repository, so that of two who take away the last things one sees that nothing is left.
func (t *tx) dropIfEmpty(repo int64) (int64, error) {
	n, err := t.exec(`DELETE FROM repository WHERE id = $1 AND public IS NULL
		AND NOT EXISTS (SELECT 1 FROM repository_blob WHERE repository_id = $1)
		AND NOT EXISTS (SELECT 1 FROM manifest WHERE repository_id = $1)`, repo)
	if n > 0 {
		t.touchRights()
	}
	return n, err
}

// Contents is what a repository holds.
type Contents struct {
	Manifests, Tags int64
	Blobs, Bytes    int64 // its blobs, which other repositories may have, too
	LastManifest    int64 // the ID of the newest manifest, 0 if there is none
}

// Contents counts what a repository holds, or returns ErrNotFound. It reads all its rows.
func (db *DB) Contents(ctx context.Context, r oci.Repository) (Contents, error) {
	var c Contents
	repo, err := db.repositoryID(ctx, r)
	if err != nil {
		return c, err
	}
	err = db.queryRow(ctx, `SELECT (SELECT COUNT(*) FROM manifest m WHERE m.repository_id = $1), (SELECT COUNT(*) FROM tag t WHERE t.repository_id = $1),
		COUNT(*), CAST(COALESCE(SUM(b.size), 0) AS BIGINT), (SELECT COALESCE(MAX(m.id), 0) FROM manifest m WHERE m.repository_id = $1)
		FROM repository_blob rb JOIN blob b ON b.id = rb.blob_id WHERE rb.repository_id = $1`, repo).
		Scan(&c.Manifests, &c.Tags, &c.Blobs, &c.Bytes, &c.LastManifest)
	return c, err
}

// DeleteManifests is DeleteManifest for up to n manifests of a repository, whose IDs are not above through. It returns how many they
// were; a repository that is gone has none.
func (db *DB) DeleteManifests(ctx context.Context, r oci.Repository, through int64, n int, allow Allow, origin Origin, now time.Time) (deleted int, err error) {
	err = db.update(ctx, func(t *tx) error {
		deleted = 0
		repo, err := t.lockRepository(r)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		held, err := t.changeable(r)
		if err != nil {
			return err
		}
		type row struct {
			id     int64
			digest oci.Digest
		}
		var rows []row
		if err := t.query(func(scan func(...any) error) error {
			var one row
			var digest string
			if err := scan(&one.id, &digest); err != nil {
				return err
			}
			err := one.digest.UnmarshalText([]byte(digest))
			rows = append(rows, one)
			return err
		}, `SELECT m.id, m.digest FROM manifest m WHERE m.repository_id = $1 AND m.id <= $2 LIMIT $3`, repo, through, n); err != nil {
			return err
		}
		t.touch(r)
		for _, one := range rows {
			if err := t.deleteManifest(repo, r, one.id, one.digest, held, allow, origin, now); err != nil {
				return err
			}
		}
		deleted = len(rows)
		_, err = t.dropIfEmpty(repo)
		return err
	})
	return deleted, err
}
