package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// countedLinks returns a query for all links, with the organization of each.
func (d dialect) countedLinks() string {
	return `SELECT ` + d.organization("r.name") + ` AS organization, rb.blob_id FROM repository_blob rb JOIN repository r ON r.id = rb.repository_id`
}

// countedUsage returns a query for all that organizations use, which is to be summed up.
func (d dialect) countedUsage() string {
	whose := `SELECT ` + d.organization("r.name") + ` AS organization, `
	return whose + `r.listed AS repositories, 0 AS tags, 0 AS bytes, 0 AS deduplicated FROM repository r
		UNION ALL ` + whose + `0, 1, 0, 0 FROM tag t JOIN repository r ON r.id = t.repository_id
		UNION ALL ` + whose + `0, 0, m.size, m.size FROM manifest m JOIN repository r ON r.id = m.repository_id
		UNION ALL ` + whose + `0, 0, m.size, m.size FROM trashed_manifest m JOIN repository r ON r.id = m.repository_id
		UNION ALL SELECT l.organization, 0, 0, b.size, 0 FROM (` + d.countedLinks() + `) AS l JOIN blob b ON b.id = l.blob_id
		UNION ALL SELECT l.organization, 0, 0, 0, b.size FROM (SELECT DISTINCT organization, blob_id FROM (` + d.countedLinks() + `) AS every) AS l
			JOIN blob b ON b.id = l.blob_id`
}

// UsageError says that what is stored as the usage of an organization is not what it uses.
type UsageError struct {
	Organization string
	Stored       Usage
	Counted      Usage // by a look at everything
	Blobs        int64 // whose count of links is wrong
}

// Error implements error.
func (e *UsageError) Error() string {
	if e.Stored == e.Counted {
		return fmt.Sprintf("the links to %d blobs of organization %s are counted wrongly", e.Blobs, e.Organization)
	}
	show := func(u Usage) string {
		return fmt.Sprintf("%d repositories, %d tags, %d bytes and %d deduplicated bytes", u.Repositories, u.Tags, u.Bytes, u.Deduplicated)
	}
	return fmt.Sprintf("organization %s has %s; the database says %s", e.Organization, show(e.Counted), show(e.Stored))
}

// CheckUsage counts everything and calls found for each organization whose usage is stored wrongly. Changes may go on meanwhile.
func (db *DB) CheckUsage(ctx context.Context, found func(*UsageError) error) error {
	err := db.whole(ctx, func(scan func(...any) error) error {
		e := new(UsageError)
		if err := scan(append(append([]any{&e.Organization}, e.Stored.dest()...), e.Counted.dest()...)...); err != nil {
			return err
		}
		return found(e)
	}, `SELECT organization, CAST(SUM(repositories) AS BIGINT), CAST(SUM(tags) AS BIGINT), CAST(SUM(bytes) AS BIGINT), CAST(SUM(deduplicated) AS BIGINT),
			CAST(SUM(counted_repositories) AS BIGINT), CAST(SUM(counted_tags) AS BIGINT), CAST(SUM(counted_bytes) AS BIGINT), CAST(SUM(counted_deduplicated) AS BIGINT)
		FROM (SELECT organization, repositories, tags, bytes, deduplicated, 0 AS counted_repositories, 0 AS counted_tags, 0 AS counted_bytes, 0 AS counted_deduplicated
			FROM organization_usage
			UNION ALL SELECT organization, 0, 0, 0, 0, repositories, tags, bytes, deduplicated FROM (`+db.countedUsage()+`) AS counted) AS both_of_them
		GROUP BY organization
		HAVING SUM(repositories) <> SUM(counted_repositories) OR SUM(tags) <> SUM(counted_tags)
			OR SUM(bytes) <> SUM(counted_bytes) OR SUM(deduplicated) <> SUM(counted_deduplicated)
		ORDER BY organization`)
	if err != nil {
		return err
	}
	return db.whole(ctx, func(scan func(...any) error) error {
		e := new(UsageError)
		if err := scan(&e.Organization, &e.Blobs); err != nil {
			return err
		}
		return found(e)
	}, `SELECT organization, COUNT(*) FROM (SELECT organization, blob_id FROM (
			SELECT organization, blob_id, links, 0 AS counted FROM organization_blob
			UNION ALL SELECT organization, blob_id, 0, 1 FROM (`+db.countedLinks()+`) AS l) AS both_of_them
			GROUP BY organization, blob_id HAVING SUM(links) <> SUM(counted)) AS wrong
		GROUP BY organization ORDER BY organization`)
}

// RecountUsage counts everything anew. Changes wait meanwhile.
func (db *DB) RecountUsage(ctx context.Context) error {
	texts := []string{
		`DELETE FROM organization_blob`,
		`DELETE FROM organization_usage`,
		`INSERT INTO organization_blob (organization, blob_id, links) SELECT organization, blob_id, COUNT(*) FROM (` + db.countedLinks() + `) AS l
			GROUP BY organization, blob_id`,
	}
	const sums = `SUM(repositories), SUM(tags), SUM(bytes), SUM(deduplicated) FROM (`
	if db.embedded() {
		texts = append(texts, `INSERT INTO organization_usage (organization, repositories, tags, bytes, deduplicated)
			SELECT organization, `+sums+db.countedUsage()+`) AS counted GROUP BY organization`)
		return db.update(ctx, func(t *tx) error {
			for _, text := range texts {
				if _, err := t.exec(text); err != nil {
					return err
				}
			}
			return nil
		})
	}
	texts = append([]string{`SET LOCAL statement_timeout = 0`,
		// In the order in which triggers come to them. What has been changed and not counted yet is counted after this.
		`LOCK TABLE organization_blob, organization_usage IN SHARE ROW EXCLUSIVE MODE`}, append(texts,
		`INSERT INTO organization_usage (organization, shard, repositories, tags, bytes, deduplicated)
			SELECT organization, 0, `+sums+db.countedUsage()+`) AS counted GROUP BY organization`)...)
	for attempt := 1; ; attempt++ {
		err := db.long(ctx, false, func(t *sql.Tx) error {
			for _, text := range texts {
				if _, err := t.ExecContext(ctx, text); err != nil {
					return err
				}
			}
			return nil
		})
		if sqlState(err) != deadlockDetected || attempt == attempts {
			return err
		}
	}
}

// whole is query for a statement that looks at everything and takes as long as that does.
func (db *DB) whole(ctx context.Context, each func(scan func(...any) error) error, text string, args ...any) error {
	if db.embedded() {
		return db.query(ctx, each, text, args...)
	}
	return db.long(ctx, true, func(t *sql.Tx) error {
		if _, err := t.ExecContext(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
			return err
		}
		rows, err := t.QueryContext(ctx, text, args...)
		if err != nil {
			return err
		}
		return eachRow(rows, each)
	})
}

// long makes a transaction of PostgreSQL that may take long.
func (db *DB) long(ctx context.Context, readOnly bool, do func(*sql.Tx) error) error {
	t, err := db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: readOnly})
	if err != nil {
		return err
	}
	if err := do(t); err != nil {
		return errors.Join(err, t.Rollback())
	}
	return t.Commit()
}
