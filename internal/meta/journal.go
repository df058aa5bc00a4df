package meta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// The journal is a copy of the metadata in the blob store, see package journal. What is to be copied is in the table journal,
// which triggers fill: each row names a thing that has changed, and a record of it holds its state when it is read, which is
// that after the change or a later one. So it is enough that a record is written after each change, once or more, and of several records of a
// thing the one with the highest number is right.

// JournalKind is the kind of thing that a record of the journal tells of.
type JournalKind string

// The kinds of records. The journal of changes has moves of tags, from which follows what tags there are; a checkpoint has both.
const (
	JournalRepository JournalKind = "repository"
	JournalLink       JournalKind = "link" // a blob that a repository has
	JournalManifest   JournalKind = "manifest"
	JournalTag        JournalKind = "tag"
	JournalMove       JournalKind = "move" // of a tag, from the tag log
)

// JournalRecord is the state of one thing. Which fields it has depends on its kind.
type JournalRecord struct {
	// Change is the number of the change that the record was written for. 0 stands for a checkpoint, which is before all changes
	// of its journal.
	Change int64       `json:"change,omitempty"`
	Kind   JournalKind `json:"kind"`

	RepositoryID int64  `json:"repository_id"`
	Ref          string `json:"ref,omitempty"`  // the digest of a link or manifest, a tag, or the number of a move
	Gone         bool   `json:"gone,omitempty"` // it is not there any more; the rest is empty

	Repository string `json:"repository,omitempty"` // the repository's name
	ID         int64  `json:"id,omitempty"`         // of a manifest: orders them by age
	At         int64  `json:"at,omitempty"`         // when it was made, or moved; milliseconds since 1970
	Public     *int64 `json:"public,omitempty"`

	Size int64  `json:"size,omitempty"` // of a link's blob, in bytes
	Key  string `json:"key,omitempty"`  // of its object

	MediaType string `json:"media_type,omitempty"`
	Text      string `json:"text,omitempty"` // the body of a manifest, if it is UTF-8
	Body      []byte `json:"body,omitempty"` // else

	Tag    string `json:"tag,omitempty"`    // that was moved
	Digest string `json:"digest,omitempty"` // that a tag points to, since a move; empty if that took it away
	Old    string `json:"old,omitempty"`    // that it pointed to before; empty if it was not there
	Actor  string `json:"actor,omitempty"`
	// Credential is the name of what the actor signed in with.
	Credential string `json:"credential,omitempty"`
	Method     string `json:"method,omitempty"`
}

// setContent sets the body of a manifest.
func (r *JournalRecord) setContent(body []byte) {
	if utf8.Valid(body) {
		r.Text = string(body)
	} else {
		r.Body = body
	}
}

// Content returns the body of a manifest.
func (r *JournalRecord) Content() []byte {
	if r.Text != "" {
		return []byte(r.Text)
	}
	return r.Body
}

const journalSetting = "journal" // the state of the journal, as package journal writes it

// JournalUnbegun is the state of the journal of a database that has its content from the journal or from a database that
// was journalled in the same store: what is in the store already is of the same registry.
var JournalUnbegun = []byte(`{}`)

// JournalState returns the state that SwapJournalState set last, or ErrNotFound.
func (db *DB) JournalState(ctx context.Context) ([]byte, error) {
	return db.Setting(ctx, journalSetting)
}

// SwapJournalState replaces the state of the journal, or fails with ErrLost if it is not old; nil stands for none.
func (db *DB) SwapJournalState(ctx context.Context, old, state []byte) error {
	return db.update(ctx, func(t *tx) error {
		var n int64
		var err error
		if old == nil {
			n, err = t.exec(`INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, journalSetting, state)
		} else {
			n, err = t.exec(`UPDATE setting SET value = $3 WHERE name = $1 AND value = $2`, journalSetting, old, state)
		}
		if err == nil && n == 0 {
			err = ErrLost
		}
		return err
	})
}

// JournalWaits returns since when the oldest change waits that has yet to be written to the journal; zero if none does.
func (db *DB) JournalWaits(ctx context.Context) (since time.Time, err error) {
	var at int64
	err = db.queryRow(ctx, `SELECT at FROM journal ORDER BY id LIMIT 1`).Scan(&at)
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, nil
	}
	return time.UnixMilli(at), err
}

// LastChange returns the number of the newest change that the database has ever had.
func (db *DB) LastChange(ctx context.Context) (n int64, err error) {
	text := `SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = $1), 0)`
	if !db.embedded() {
		text = `SELECT COALESCE(pg_sequence_last_value(CAST(pg_get_serial_sequence($1, 'id') AS regclass)), 0)`
	}
	err = db.queryRow(ctx, text, "journal").Scan(&n)
	return n, err
}

// Settle waits until everything that was read from the database before is durable. SQLite shows changes before they are.
func (db *DB) Settle(ctx context.Context) error {
	if !db.embedded() {
		return nil
	}
	return db.update(ctx, func(*tx) error { return nil })
}

// Changes are rows of the table journal, with the state of what they name.
type Changes struct {
	Records []JournalRecord // in the order of their numbers; of several changes of one thing, that of the last
	More    bool            // the page is full
	rows    []int64
}

const (
	changesPage = 2000
	changeBytes = 8 << 20 // of manifests in a page; a single one may have more
)

// JournalChanges returns the oldest changes that have yet to be written to the journal, as many as fit on a page. What it returns
// may not be durable before Settle has returned.
func (db *DB) JournalChanges(ctx context.Context) (*Changes, error) {
	c := new(Changes)
	through, full, err := db.changesThatFit(ctx)
	if err != nil || through == 0 {
		return c, err
	}
	c.More = full
	// Something that is read later may have been changed meanwhile, and then be newer than what was read before. What refers comes before
	// what it refers to, so that this is there.
	for _, kind := range []JournalKind{JournalMove, JournalManifest, JournalLink, JournalRepository} {
		if err := db.changesOf(ctx, c, kind, through); err != nil {
			return nil, fmt.Errorf("read changes of a %s: %w", kind, err)
		}
	}
	slices.SortFunc(c.Records, func(a, b JournalRecord) int { return cmp.Compare(a.Change, b.Change) })
	return c, nil
}

// changesThatFit returns the number of the last change of a page, 0 if there is none, and whether the page is full.
func (db *DB) changesThatFit(ctx context.Context) (through int64, full bool, err error) {
	var rows, bytes int64
	err = db.query(ctx, func(scan func(...any) error) error {
		var id, size int64
		if err := scan(&id, &size); err != nil {
			return err
		}
		if bytes += size; bytes > changeBytes && through > 0 {
			return errEnough
		}
		through = id
		rows++
		return nil
	}, `SELECT j.id, COALESCE(m.size, 0) FROM (SELECT id, kind, repository_id, ref FROM journal ORDER BY id LIMIT $1) AS j
		LEFT JOIN manifest m ON j.kind = 'manifest' AND m.repository_id = j.repository_id AND m.digest = j.ref
		ORDER BY j.id`, changesPage)
	if errors.Is(err, errEnough) {
		return through, true, nil
	}
	return through, rows == changesPage, err
}

// journalQueries read the changes of a kind up to a number, the newest first.
var journalQueries = map[JournalKind]string{
	JournalRepository: `SELECT j.id, j.repository_id, j.ref, r.name, r.created_at, r.public
		FROM journal j LEFT JOIN repository r ON r.id = j.repository_id
		WHERE j.id <= $1 AND j.kind = 'repository' ORDER BY j.id DESC`,
	JournalLink: `SELECT j.id, j.repository_id, j.ref, CASE WHEN rb.blob_id IS NULL THEN NULL ELSE b.storage_key END, b.size, r.name
		FROM journal j LEFT JOIN repository r ON r.id = j.repository_id LEFT JOIN blob b ON b.digest = j.ref
		LEFT JOIN repository_blob rb ON rb.repository_id = j.repository_id AND rb.blob_id = b.id
		WHERE j.id <= $1 AND j.kind = 'link' ORDER BY j.id DESC`,
	JournalManifest: `SELECT j.id, j.repository_id, j.ref, m.body, m.id, m.media_type, m.created_at, r.name
		FROM journal j LEFT JOIN repository r ON r.id = j.repository_id
		LEFT JOIN manifest m ON m.repository_id = j.repository_id AND m.digest = j.ref
		WHERE j.id <= $1 AND j.kind = 'manifest' ORDER BY j.id DESC`,
	JournalMove: `SELECT j.id, j.repository_id, j.ref, l.repository, l.tag, l.old_digest, l.new_digest, l.at, l.actor, l.credential, l.method
		FROM journal j LEFT JOIN tag_log l ON l.id = CAST(j.ref AS BIGINT)
		WHERE j.id <= $1 AND j.kind = 'move' ORDER BY j.id DESC`,
}

// changesOf adds the changes of a kind up to a number.
func (db *DB) changesOf(ctx context.Context, c *Changes, kind JournalKind, through int64) error {
	type thing struct {
		repository int64
		ref        string
	}
	seen := make(map[thing]bool)
	return db.query(ctx, func(scan func(...any) error) error {
		r := JournalRecord{Kind: kind}
		if err := r.scan(scan, &r.Change, &r.RepositoryID, &r.Ref); err != nil {
			return err
		}
		c.rows = append(c.rows, r.Change)
		if is := (thing{r.RepositoryID, r.Ref}); !seen[is] {
			seen[is] = true
			c.Records = append(c.Records, r)
		}
		return nil
	}, journalQueries[kind], through)
}

// scan reads the columns that follow others of a row.
func (r *JournalRecord) scan(scan func(...any) error, first ...any) error {
	var name, key, mediaType, tag, old, digest, actor, credential, method *string
	var id, at, size *int64
	var body []byte
	var there *bool // set to what tells that the thing is there
	is := func(v bool) { there = &v }
	var err error
	switch r.Kind {
	case JournalRepository:
		err = scan(append(first, &name, &at, &r.Public)...)
		is(name != nil)
	case JournalLink:
		err = scan(append(first, &key, &size, &name)...)
		is(key != nil)
	case JournalManifest:
		err = scan(append(first, &body, &id, &mediaType, &at, &name)...)
		is(id != nil)
	case JournalTag:
		err = scan(append(first, &digest, &at, &name)...)
		is(true)
	case JournalMove:
		err = scan(append(first, &name, &tag, &old, &digest, &at, &actor, &credential, &method)...)
		is(tag != nil)
	default:
		err = fmt.Errorf("there are no records of kind %q", r.Kind)
	}
	if err != nil {
		return err
	}
	if r.Gone = !*there; r.Gone {
		return nil
	}
	r.Repository, r.Key, r.MediaType, r.Tag = orZero(name), orZero(key), orZero(mediaType), orZero(tag)
	r.Old, r.Digest, r.Actor, r.Credential, r.Method = orZero(old), orZero(digest), orZero(actor), orZero(credential), orZero(method)
	r.ID, r.At, r.Size = orZero(id), orZero(at), orZero(size)
	r.setContent(body)
	return nil
}

func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// Written tells that the records of changes are durable in the journal of the given state, so that they need not be written again. It
// fails with ErrLost, and they will be, if the state is another by now.
func (db *DB) Written(ctx context.Context, c *Changes, begun func(state []byte) bool) error {
	return db.update(ctx, func(t *tx) error {
		var state []byte
		err := t.queryRow(`SELECT value FROM setting WHERE name = $1`+t.locking("FOR SHARE"), journalSetting).Scan(&state)
		if err != nil {
			return err
		}
		if !begun(state) {
			return ErrLost
		}
		for rows := range slices.Chunk(c.rows, 500) {
			if _, err := t.exec(`DELETE FROM journal WHERE id IN (SELECT CAST(list.value AS BIGINT) FROM `+t.list("$1")+`)`, jsonOf(rows)); err != nil {
				return err
			}
		}
		return nil
	})
}

// JournalPlace says how far a checkpoint has come. The zero value is its beginning.
type JournalPlace struct {
	Step int    `json:"step,omitempty"` // of checkpointSteps
	ID   int64  `json:"id,omitempty"`   // of the last row that was read
	Next int64  `json:"next,omitempty"` // the second part of its key, if that is a number
	Name string `json:"name,omitempty"` // or text
}

// checkpointSteps are the kinds of records of a checkpoint, in their order, and how they are read: the columns of the key, ref, and
// what scan wants.
var checkpointSteps = []struct {
	kind JournalKind
	text string
}{
	{JournalRepository, `SELECT id, 0, '', name, created_at, public FROM repository WHERE id > $1 AND CAST($2 AS BIGINT) >= 0 AND CAST($3 AS TEXT) >= '' ORDER BY id LIMIT $4`},
	{JournalLink, `SELECT rb.repository_id, rb.blob_id, b.digest, b.storage_key, b.size, r.name
		FROM repository_blob rb JOIN blob b ON b.id = rb.blob_id JOIN repository r ON r.id = rb.repository_id
		WHERE (rb.repository_id, rb.blob_id) > ($1, $2) AND CAST($3 AS TEXT) >= '' ORDER BY rb.repository_id, rb.blob_id LIMIT $4`},
	{JournalManifest, `SELECT m.id, m.repository_id, m.digest, m.body, m.id, m.media_type, m.created_at, r.name
		FROM manifest m JOIN repository r ON r.id = m.repository_id WHERE m.id > $1 AND CAST($2 AS BIGINT) >= 0 AND CAST($3 AS TEXT) >= '' ORDER BY m.id LIMIT $4`},
	{JournalTag, `SELECT t.repository_id, 0, t.name, m.digest, t.updated_at, r.name
		FROM tag t JOIN manifest m ON m.id = t.manifest_id JOIN repository r ON r.id = t.repository_id
		WHERE (t.repository_id, t.name) > ($1, $3) AND CAST($2 AS BIGINT) >= 0 ORDER BY t.repository_id, t.name LIMIT $4`},
	{JournalMove, `SELECT l.id, l.repository_id, CAST(l.id AS TEXT), l.repository, l.tag, l.old_digest, l.new_digest, l.at, l.actor, l.credential, l.method
		FROM tag_log l WHERE l.id > $1 AND CAST($2 AS BIGINT) >= 0 AND CAST($3 AS TEXT) >= '' ORDER BY l.id LIMIT $4`},
}

// JournalCheckpoint returns a page of the records of a checkpoint, and the place after it. done tells that it was the last one. What it
// returns may not be durable before Settle has returned.
func (db *DB) JournalCheckpoint(ctx context.Context, after JournalPlace) (records []JournalRecord, next JournalPlace, done bool, err error) {
	if after.Step < 0 || after.Step >= len(checkpointSteps) {
		return nil, after, false, fmt.Errorf("a checkpoint has no step %d", after.Step)
	}
	step := checkpointSteps[after.Step]
	n, end := rowsPage, false
	if step.kind == JournalManifest {
		if n, end, err = db.rowsThatFit(ctx, Table{Name: "manifest"}, []any{after.ID}); err != nil {
			return nil, after, false, fmt.Errorf("read sizes of manifests: %w", err)
		}
	}
	next = after
	err = db.query(ctx, func(scan func(...any) error) error {
		r := JournalRecord{Kind: step.kind}
		if err := r.scan(scan, &next.ID, &next.Next, &next.Name); err != nil {
			return err
		}
		r.Ref, r.RepositoryID = next.Name, next.ID
		if r.Kind == JournalManifest || r.Kind == JournalMove {
			r.RepositoryID = next.Next
		}
		records = append(records, r)
		return nil
	}, step.text, after.ID, after.Next, after.Name, n)
	if err != nil {
		return nil, after, false, fmt.Errorf("read a page of %s: %w", step.kind, err)
	}
	// What comes after the last row while this is read is a change.
	if end || len(records) < n {
		next = JournalPlace{Step: after.Step + 1}
	}
	return records, next, next.Step == len(checkpointSteps), nil
}
