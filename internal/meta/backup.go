package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// The methods of this file serve backups. A set of a backup has the database as a file of SQLite, made as the target of a move is, see
// move.go: rows are copied from one snapshot, then each blob is noted with the key of its object in the backup, and those take the place of the
// keys that it was read by.

// snapshot is an engine that reads everything as it was at one moment.
type snapshot struct{ tx *sql.Tx }

func (s snapshot) queryRow(ctx context.Context, dest []any, text string, args []any) error {
	rows, err := s.tx.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	return oneRow(rows, dest)
}

func (s snapshot) query(ctx context.Context, each func(scan func(...any) error) error, text string, args []any) error {
	rows, err := s.tx.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	return eachRow(rows, each)
}

func (snapshot) update(context.Context, func(*tx) error) error { return errReadOnly }
func (snapshot) check(context.Context) error                   { return nil }
func (snapshot) stats() Stats                                  { return Stats{} }
func (s snapshot) close() error                                { return s.tx.Rollback() }

// Snapshot returns the database as it is at this moment, for reading by one goroutine at a time, until it is closed or ctx ends. What it
// shows may not be durable before Settle of the database itself has returned. As long as it is open, the database keeps what is replaced.
func (db *DB) Snapshot(ctx context.Context) (*DB, error) {
	var opts *sql.TxOptions
	if !db.embedded() {
		opts = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	t, err := db.read.BeginTx(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("begin a snapshot: %w", err)
	}
	s := &DB{engine: snapshot{t}, statements: db.statements, rows: db.rows, dialect: db.dialect}
	if !db.embedded() {
		for _, text := range []string{`SET LOCAL statement_timeout = 0`, `SET LOCAL idle_in_transaction_session_timeout = 0`} {
			if _, err := t.ExecContext(ctx, text); err != nil {
				return nil, errors.Join(fmt.Errorf("begin a snapshot: %w", err), s.Close())
			}
		}
	}
	var n int64 // the first look is the moment
	if err := s.queryRow(ctx, `SELECT COUNT(*) FROM setting`).Scan(&n); err != nil {
		return nil, errors.Join(fmt.Errorf("begin a snapshot: %w", err), s.Close())
	}
	return s, nil
}

// FindBlob returns the blob of a digest, or ErrNotFound.
func (db *DB) FindBlob(ctx context.Context, digest string) (b MovingBlob, err error) {
	err = db.queryRow(ctx, `SELECT id, digest, size, storage_key FROM blob WHERE digest = $1`, digest).Scan(&b.ID, &b.Digest, &b.Size, &b.Key)
	return b, err
}

// NoteAllMoved is NoteMoved for several objects. What is noted already stays.
func (db *DB) NoteAllMoved(ctx context.Context, blobs []MovingBlob) error {
	return db.update(ctx, func(t *tx) error {
		for _, b := range blobs {
			if _, err := t.exec(`INSERT INTO moved_object (blob_id, digest, size, storage_key) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
				b.ID, b.Digest, b.Size, b.Key); err != nil {
				return err
			}
		}
		return nil
	})
}

// RekeyMoved gives each blob the key of its moved object. A blob that has none is taken out: its manifests wait for it, as if it had
// never come, and so will those that come out of the trash. It returns how many those are.
func (db *DB) RekeyMoved(ctx context.Context) (lost int64, err error) {
	const noObject = `(SELECT id FROM blob WHERE NOT EXISTS (SELECT 1 FROM moved_object m WHERE m.blob_id = blob.id))`
	err = db.update(ctx, func(t *tx) error {
		for _, text := range []string{
			`INSERT INTO manifest_missing_blob (repository_id, digest, manifest_id)
				SELECT mb.repository_id, b.digest, mb.manifest_id FROM manifest_blob mb JOIN blob b ON b.id = mb.blob_id WHERE mb.blob_id IN ` + noObject,
			`DELETE FROM manifest_blob WHERE blob_id IN ` + noObject,
			`DELETE FROM trashed_manifest_blob WHERE blob_id IN ` + noObject,
			`DELETE FROM repository_blob WHERE blob_id IN ` + noObject,
			`DELETE FROM blob WHERE id IN ` + noObject,
			`UPDATE blob SET storage_key = (SELECT m.storage_key FROM moved_object m WHERE m.blob_id = blob.id)`,
			`DELETE FROM repository WHERE public IS NULL
				AND NOT EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.repository_id = repository.id)
				AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.repository_id = repository.id)`,
		} {
			n, err := t.exec(text)
			if err != nil {
				return err
			}
			if text == `DELETE FROM blob WHERE id IN `+noObject {
				lost = n
			}
		}
		return t.forgetChanges()
	})
	return lost, err
}
