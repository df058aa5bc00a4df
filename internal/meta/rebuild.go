package meta

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// The methods of this file make the content of an empty database from records of the journal.
//
// First all records are staged: the table rebuilt keeps the right one of each thing. Then rows are made of them, kind after kind.
// From BeginRebuild to FinishRebuild the database has the setting "rebuilding", and nothing else may use it, see CheckComplete.

// Errors of a rebuild.
var (
	// ErrRebuilding: a rebuild of this database is not finished.
	ErrRebuilding = errors.New("the rebuild of this registry is not finished: run \"berth rebuild\" again until it is")
	// ErrNotEmpty: the database has content already.
	ErrNotEmpty = errors.New("the database has content already: a rebuild needs an empty one")
)

const rebuildingSetting = "rebuilding"

// JournalBlob is a kind of staged record: the blob of a digest, whichever repositories have it.
const JournalBlob JournalKind = "blob"

// BeginRebuild makes an empty database the target of a rebuild. What an interrupted one has left is taken away. It fails with
// ErrNotEmpty.
func (db *DB) BeginRebuild(ctx context.Context) error {
	_, err := db.Setting(ctx, rebuildingSetting)
	again := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if again {
		if err := db.clearRows(ctx, rebuildingSetting); err != nil {
			return err
		}
	}
	return db.update(ctx, func(t *tx) error {
		if again {
			if _, err := t.exec(`DROP TABLE rebuilt`); err != nil {
				return err
			}
		} else {
			if occupied, err := t.occupied(); err != nil || occupied {
				return cmp.Or(err, ErrNotEmpty)
			}
			if _, err := t.exec(`INSERT INTO setting (name, value) VALUES ($1, $2)`, rebuildingSetting, []byte{}); err != nil {
				return err
			}
		}
		collate := ""
		if t.postgres {
			collate = ` COLLATE "C"`
		}
		// place is the order in which rows are made.
		if _, err := t.exec(`CREATE TABLE rebuilt (
			kind          TEXT` + collate + ` NOT NULL,
			repository_id BIGINT NOT NULL,
			ref           TEXT` + collate + ` NOT NULL,
			epoch         BIGINT NOT NULL,
			change        BIGINT NOT NULL,
			place         BIGINT NOT NULL,
			gone          BIGINT NOT NULL,
			record        BYTEA  NOT NULL,
			PRIMARY KEY (kind, repository_id, ref)
		)`); err != nil {
			return err
		}
		_, err := t.exec(`CREATE INDEX rebuilt_place ON rebuilt (kind, place, ref, repository_id)`)
		return err
	})
}

// staged is a record as it is staged.
type staged struct {
	kind       JournalKind
	repository int64
	ref        string
	place      int64
	gone       bool
}

// stagedAs returns the things that a record tells of.
func (r *JournalRecord) stagedAs() []staged {
	own := staged{r.Kind, r.RepositoryID, r.Ref, 0, r.Gone}
	switch r.Kind {
	case JournalRepository:
		own.place = r.RepositoryID
	case JournalManifest:
		own.place = r.ID
	case JournalLink:
		if !r.Gone {
			return []staged{own, {kind: JournalBlob, ref: r.Ref}}
		}
	case JournalMove:
		if r.Gone {
			return nil // of a log that somebody has cut
		}
		own.place = r.number()
		return []staged{own, {kind: JournalTag, repository: r.RepositoryID, ref: r.Tag, gone: r.Digest == ""}}
	}
	return []staged{own}
}

// number returns the number of a move, 0 if it has none.
func (r *JournalRecord) number() int64 {
	var n int64
	if err := json.Unmarshal([]byte(r.Ref), &n); err != nil {
		return 0
	}
	return n
}

// StageRecords keeps the records that are newer than those that are staged of the same things.
func (db *DB) StageRecords(ctx context.Context, epoch int64, records []JournalRecord) error {
	return db.update(ctx, func(t *tx) error {
		for i := range records {
			r := &records[i]
			b, err := json.Marshal(r)
			if err != nil {
				return err
			}
			for _, s := range r.stagedAs() {
				gone := 0
				if s.gone {
					gone = 1
				}
				if _, err := t.exec(`INSERT INTO rebuilt (kind, repository_id, ref, epoch, change, place, gone, record)
					VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
					ON CONFLICT (kind, repository_id, ref) DO UPDATE SET epoch = excluded.epoch, change = excluded.change,
						place = excluded.place, gone = excluded.gone, record = excluded.record
					WHERE (excluded.epoch, excluded.change) >= (rebuilt.epoch, rebuilt.change)`,
					string(s.kind), s.repository, s.ref, epoch, r.Change, s.place, gone, b); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// StagedPage is a page of staged records of things that are there.
type StagedPage struct {
	Records []JournalRecord

	place      int64 // of the last one
	ref        string
	repository int64
}

// Staged returns the page after another one, or the first one if that is nil. An empty page is the end.
func (db *DB) Staged(ctx context.Context, kind JournalKind, after *StagedPage) (*StagedPage, error) {
	page := &StagedPage{place: -1}
	if after != nil {
		page.place, page.ref, page.repository = after.place, after.ref, after.repository
	}
	where := ` FROM rebuilt WHERE kind = $1 AND (place, ref, repository_id) > ($2, $3, $4) AND gone = 0`
	if kind == JournalBlob { // which some repository has
		where += ` AND EXISTS (SELECT 1 FROM rebuilt l WHERE l.kind = 'link' AND l.place = 0 AND l.ref = rebuilt.ref AND l.gone = 0)`
	}
	where += ` ORDER BY place, ref, repository_id LIMIT $5`
	args := []any{string(kind), page.place, page.ref, page.repository}
	n, bytes := 0, int64(0)
	err := db.query(ctx, func(scan func(...any) error) error {
		var size int64
		if err := scan(&size); err != nil {
			return err
		}
		if bytes += size; bytes > bytesPage && n > 0 {
			return errEnough
		}
		n++
		return nil
	}, `SELECT LENGTH(record)`+where, append(args, rowsPage)...)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("read sizes of staged records: %w", err)
	}
	if n == 0 {
		return page, nil
	}
	err = db.query(ctx, func(scan func(...any) error) error {
		var r JournalRecord
		var b []byte
		if err := scan(&page.place, &page.ref, &page.repository, &b); err != nil {
			return err
		}
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		r.Kind, r.RepositoryID, r.Ref = kind, page.repository, page.ref
		page.Records = append(page.Records, r)
		return nil
	}, `SELECT place, ref, repository_id, record`+where, append(args, n)...)
	if err != nil {
		return nil, fmt.Errorf("read staged records: %w", err)
	}
	return page, nil
}

// rebuild makes rows in one transaction. What the triggers note of it is not for the journal: a checkpoint will have it.
func (db *DB) rebuild(ctx context.Context, do func(*tx) error) error {
	return db.update(ctx, func(t *tx) error {
		if err := do(t); err != nil {
			return err
		}
		return t.forgetChanges()
	})
}

// RebuildRepositories makes rows of a page of repositories.
func (db *DB) RebuildRepositories(ctx context.Context, records []JournalRecord) error {
	return db.rebuild(ctx, func(t *tx) error {
		for i := range records {
			r := &records[i]
			if _, err := t.exec(`INSERT INTO repository (id, name, created_at, public) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
				r.RepositoryID, r.Repository, r.At, r.Public); err != nil {
				return err
			}
		}
		return nil
	})
}

// RebuildBlobs makes rows of blobs, whose bytes the caller has seen.
func (db *DB) RebuildBlobs(ctx context.Context, records []JournalRecord, now time.Time) error {
	return db.rebuild(ctx, func(t *tx) error {
		for i := range records {
			r := &records[i]
			if _, err := t.exec(`INSERT INTO blob (digest, size, storage_key, created_at) VALUES ($1, $2, $3, $4)`,
				r.Ref, r.Size, r.Key, now.UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
}

// RebuildLinks gives repositories their blobs, as far as both are there. Their grace period begins.
func (db *DB) RebuildLinks(ctx context.Context, records []JournalRecord, now time.Time) error {
	return db.rebuild(ctx, func(t *tx) error {
		for i := range records {
			r := &records[i]
			if _, err := t.exec(`INSERT INTO repository_blob (repository_id, blob_id, unreferenced_since)
				SELECT r.id, b.id, CAST($3 AS BIGINT) FROM repository r JOIN blob b ON b.digest = $2 WHERE r.id = $1`,
				r.RepositoryID, r.Ref, now.UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
}

// RebuiltManifest is a manifest whose body has been parsed and verified.
type RebuiltManifest struct {
	RepositoryID int64
	Digest       oci.Digest
	Parsed       *oci.Manifest
	Body         []byte
	Made         time.Time
}

// RebuildManifests makes rows of manifests. It returns those whose repository is not there.
func (db *DB) RebuildManifests(ctx context.Context, manifests []RebuiltManifest) (homeless []oci.Digest, err error) {
	err = db.rebuild(ctx, func(t *tx) error {
		homeless = nil
		for _, m := range manifests {
			var name oci.Repository
			err := t.queryRow(`SELECT name FROM repository WHERE id = $1`, m.RepositoryID).Scan(&name)
			if errors.Is(err, ErrNotFound) {
				homeless = append(homeless, m.Digest)
				continue
			}
			if err != nil {
				return err
			}
			n := NewManifest{Repository: name, Digest: m.Digest, Parsed: m.Parsed, Body: m.Body, Now: m.Made}
			if _, _, err := t.insertManifest(m.RepositoryID, n, func() (int64, error) { return t.newManifest(m.RepositoryID, n) }); err != nil {
				return err
			}
		}
		return nil
	})
	return homeless, err
}

// RebuildMoves makes the tag log.
func (db *DB) RebuildMoves(ctx context.Context, records []JournalRecord) error {
	return db.rebuild(ctx, func(t *tx) error {
		for i := range records {
			r := &records[i]
			if _, err := t.exec(`INSERT INTO tag_log (id, repository_id, repository, tag, old_digest, new_digest, at, actor, credential, method)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
				r.number(), r.RepositoryID, r.Repository, r.Tag, orNull(r.Old), orNull(r.Digest), r.At, r.Actor, r.Credential, r.Method); err != nil {
				return err
			}
		}
		return nil
	})
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// NumberRebuilt makes the database number its rows from beyond those that the journal tells of, so that no number is used again. It
// comes after RebuildMoves, and before anything that numbers moves itself.
func (db *DB) NumberRebuilt(ctx context.Context) error {
	return db.update(ctx, func(t *tx) error {
		for table, text := range map[string]string{
			"repository": `SELECT COALESCE(MAX(repository_id), 0) FROM rebuilt`, // also of those that are gone
			"tag_log":    `SELECT COALESCE(MAX(place), 0) FROM rebuilt WHERE kind = 'move'`,
			"manifest":   `SELECT COALESCE(MAX(place), 0) FROM rebuilt WHERE kind = 'manifest'`,
		} {
			var n int64
			if err := t.queryRow(text).Scan(&n); err != nil {
				return err
			}
			if err := t.setLast(db.embedded(), table, n); err != nil {
				return fmt.Errorf("set the last number of table %s: %w", table, err)
			}
		}
		return nil
	})
}

// rebuiltBy is who moved a tag, in the log, that could not be rebuilt.
var rebuiltBy = Origin{Actor: "rebuild", Method: "rebuild"}

// RebuildTags makes rows of tags. It returns those whose manifest is not there. What the log does not say of a tag is added to
// it.
func (db *DB) RebuildTags(ctx context.Context, records []JournalRecord, now time.Time) (lost []JournalRecord, err error) {
	err = db.rebuild(ctx, func(t *tx) error {
		lost = nil
		for i := range records {
			r := &records[i]
			var manifest int64
			err := t.queryRow(`SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2`, r.RepositoryID, r.Digest).Scan(&manifest)
			there := &r.Digest
			switch {
			case errors.Is(err, ErrNotFound):
				lost = append(lost, *r)
				there = nil
			case err != nil:
				return err
			default:
				if _, err := t.exec(`INSERT INTO tag (repository_id, name, manifest_id, updated_at) VALUES ($1, $2, $3, $4)`,
					r.RepositoryID, r.Ref, manifest, r.At); err != nil {
					return err
				}
			}
			var logged *string
			err = t.queryRow(`SELECT new_digest FROM tag_log WHERE repository = $1 AND tag = $2 AND repository_id = $3 ORDER BY at DESC, id DESC LIMIT 1`,
				r.Repository, r.Ref, r.RepositoryID).Scan(&logged)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			if orZero(logged) != orZero(there) {
				if err := t.logTag(r.RepositoryID, oci.Repository(r.Repository), oci.Tag(r.Ref), logged, there, rebuiltBy, now); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return lost, err
}

// FinishRebuild makes the database a registry of its own: what nothing needs is taken away, and the journal goes on with a new
// checkpoint.
func (db *DB) FinishRebuild(ctx context.Context) error {
	return db.rebuild(ctx, func(t *tx) error {
		for _, text := range []string{
			`DELETE FROM blob WHERE NOT EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.blob_id = blob.id)`,
			`DELETE FROM repository WHERE public IS NULL
				AND NOT EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.repository_id = repository.id)
				AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.repository_id = repository.id)`,
			`DROP TABLE rebuilt`,
		} {
			if _, err := t.exec(text); err != nil {
				return err
			}
		}
		if _, err := t.exec(`INSERT INTO setting (name, value) VALUES ($1, $2)`, journalSetting, JournalUnbegun); err != nil {
			return err
		}
		gone, err := t.exec(`DELETE FROM setting WHERE name = $1`, rebuildingSetting)
		if err == nil && gone != 1 {
			err = errors.New("no rebuild is unfinished")
		}
		return err
	})
}
