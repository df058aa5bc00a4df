package meta

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// A manifest that is deleted goes to the trash of its repository, if the Origin of the change says so: rows of its own, so that
// nothing that reads manifests has to look out for it. Its blobs and its repository stay as long as it does; triggers see to that.

// Trashed is a manifest in the trash of its repository.
type Trashed struct {
	ID         int64
	Repository oci.Repository
	Digest     oci.Digest
	MediaType  string
	Size       int64 // of the manifest
	Blobs      int64 // bytes of its blobs that are there
	Deleted    time.Time
	Origin     Origin    // of the deletion: Actor, Credential and Method
	Tags       []oci.Tag // that it lost with it, at most MaxTrashedTags
}

// MaxTrashedTags is how many tags of a manifest in the trash are shown.
const MaxTrashedTags = 100

// trash copies a manifest to the trash, before it is deleted.
func (t *tx) trash(manifest int64, o Origin, now time.Time) error {
	if _, err := t.exec(`INSERT INTO trashed_manifest
		(id, repository_id, digest, media_type, size, artifact_type, subject, annotations, created_at, body, deleted_at, actor, credential, method, pulled_at)
		SELECT id, repository_id, digest, media_type, size, artifact_type, subject, annotations, created_at, body, CAST($2 AS BIGINT), $3, $4, $5,
			(SELECT u.pulled_at FROM manifest_use u WHERE u.manifest_id = manifest.id)
		FROM manifest WHERE id = $1`, manifest, now.UnixMilli(), asText(o.Actor), asText(o.Credential), o.Method); err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO trashed_manifest_blob (manifest_id, blob_id, repository_id)
		SELECT manifest_id, blob_id, repository_id FROM manifest_blob WHERE manifest_id = $1`, manifest); err != nil {
		return err
	}
	_, err := t.exec(`INSERT INTO trashed_tag (manifest_id, name, pulled_at)
		SELECT manifest_id, name, (SELECT p.pulled_at FROM tag_pull p WHERE p.repository_id = tag.repository_id AND p.name = tag.name)
		FROM tag WHERE manifest_id = $1`, manifest)
	return err
}

// Emptied says what was taken out of the trash for good. Bytes are those of the manifests; their blobs are collected when
// their grace period is over.
type Emptied struct {
	Manifests, Bytes, Repositories int64
}

// ExpireTrash takes up to n manifests out of the trash that were deleted before the given time, and repositories that are left empty. The
// grace period of blobs that nothing else needs begins.
func (db *DB) ExpireTrash(ctx context.Context, before time.Time, n int, now time.Time) (Emptied, error) {
	return db.emptyTrash(ctx, Origin{}, before, now, `SELECT t.id, r.name FROM trashed_manifest t JOIN repository r ON r.id = t.repository_id
		WHERE t.deleted_at < $1 ORDER BY t.deleted_at, t.id LIMIT $2`, before.UnixMilli(), n)
}

// EmptyTrash is ExpireTrash for a repository, and for a single manifest there if the digest is not zero. The change is by somebody: it has an
// entry in the audit log if its origin says so.
func (db *DB) EmptyTrash(ctx context.Context, r oci.Repository, d oci.Digest, n int, o Origin, now time.Time) (Emptied, error) {
	if err := db.CheckChange(ctx, r); err != nil {
		return Emptied{}, err
	}
	all := time.UnixMilli(math.MaxInt64) // also what a node deleted whose clock is ahead
	text, args := `SELECT t.id, r.name FROM trashed_manifest t JOIN repository r ON r.id = t.repository_id
		WHERE r.name = $1 ORDER BY t.deleted_at, t.id LIMIT $2`, []any{string(r), n}
	if !d.IsZero() {
		text, args = `SELECT t.id, r.name FROM trashed_manifest t JOIN repository r ON r.id = t.repository_id
		WHERE r.name = $1 AND t.digest = $2`, []any{string(r), d.String()}
	}
	return db.emptyTrash(ctx, o, all, now, text, args...)
}

// emptyTrash takes the manifests that a query names out of the trash, if they were deleted before the given time. One transaction for each repository.
func (db *DB) emptyTrash(ctx context.Context, o Origin, before, now time.Time, text string, args ...any) (Emptied, error) {
	var names []oci.Repository // in the order of the query
	found := make(map[oci.Repository][]int64)
	if err := db.query(ctx, func(scan func(...any) error) error {
		var id int64
		var r oci.Repository
		err := scan(&id, &r)
		if len(found[r]) == 0 {
			names = append(names, r)
		}
		found[r] = append(found[r], id)
		return err
	}, text, args...); err != nil {
		return Emptied{}, err
	}
	var all Emptied
	for _, r := range names {
		var e Emptied
		if err := db.update(ctx, func(t *tx) (err error) {
			if e, err = t.dropTrashed(r, found[r], before, now); err != nil || e.Manifests == 0 {
				return err
			}
			return t.record(o, r, fmt.Sprintf("%d manifests of the trash", e.Manifests), now)
		}); err != nil {
			return all, err
		}
		all.Manifests += e.Manifests
		all.Bytes += e.Bytes
		all.Repositories += e.Repositories
	}
	return all, nil
}

// dropTrashed deletes manifests of one repository from the trash, but for those that were deleted later.
func (t *tx) dropTrashed(r oci.Repository, manifests []int64, before, now time.Time) (e Emptied, err error) {
	repo, err := t.lockRepository(r)
	if errors.Is(err, ErrNotFound) {
		return e, nil // somebody else has emptied it meanwhile
	}
	if err != nil {
		return e, err
	}
	list := jsonOf(manifests)
	const ofList = `id IN (SELECT CAST(list.value AS BIGINT) FROM `
	if err := t.queryRow(`SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM trashed_manifest
		WHERE `+ofList+t.list("$1")+`) AND repository_id = $2 AND deleted_at < $3`, list, repo, before.UnixMilli()).Scan(&e.Manifests, &e.Bytes); err != nil || e.Manifests == 0 {
		return Emptied{}, err
	}
	t.touch(r)
	var blobs []int64
	if err := t.query(func(scan func(...any) error) error {
		var blob int64
		err := scan(&blob)
		blobs = append(blobs, blob)
		return err
	}, `SELECT DISTINCT tb.blob_id FROM trashed_manifest_blob tb WHERE tb.manifest_id IN (SELECT CAST(list.value AS BIGINT) FROM `+t.list("$1")+`)`, list); err != nil {
		return Emptied{}, err
	}
	if _, err := t.exec(`DELETE FROM trashed_manifest
		WHERE `+ofList+t.list("$1")+`) AND repository_id = $2 AND deleted_at < $3`, list, repo, before.UnixMilli()); err != nil {
		return Emptied{}, err
	}
	if len(blobs) > 0 { // those that other manifests in the trash need stay marked as needed: the trigger trash_needs_link
		if _, err := t.exec(`UPDATE repository_blob SET unreferenced_since = $3
			WHERE repository_id = $1 AND blob_id IN (SELECT CAST(list.value AS BIGINT) FROM `+t.list("$2")+`) AND unreferenced_since IS NULL
			AND NOT EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.repository_id = $1 AND mb.blob_id = repository_blob.blob_id)`,
			repo, jsonOf(blobs), now.UnixMilli()); err != nil {
			return Emptied{}, err
		}
	}
	e.Repositories, err = t.dropIfEmpty(repo)
	return e, err
}

// emptyTrashOf takes the manifests that need a blob out of the trash of a repository, unless a manifest that is there needs it, too.
func (t *tx) emptyTrashOf(r oci.Repository, repo, blob int64, now time.Time) error {
	var manifests []int64
	if err := t.query(func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		manifests = append(manifests, id)
		return err
	}, `SELECT tb.manifest_id FROM trashed_manifest_blob tb WHERE tb.repository_id = $1 AND tb.blob_id = $2
		AND NOT EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.repository_id = $1 AND mb.blob_id = $2)`, repo, blob); err != nil || len(manifests) == 0 {
		return err
	}
	_, err := t.dropTrashed(r, manifests, time.UnixMilli(math.MaxInt64), now)
	return err
}

// Trash returns up to n manifests in the trash of a repository, the last deleted first, that come before the place of another one; the zero
// place stands for the end. A repository that does not exist has none.
func (db *DB) Trash(ctx context.Context, r oci.Repository, before TrashPlace, n int) ([]Trashed, error) {
	found := []Trashed{}
	at, id := before.bounds()
	err := db.query(ctx, func(scan func(...any) error) error {
		m := Trashed{Repository: r}
		var digest string
		var tags *string
		var deleted int64
		if err := scan(&m.ID, &digest, &m.MediaType, &m.Size, &deleted, &m.Origin.Actor, &m.Origin.Credential, &m.Origin.Method, &m.Blobs, &tags); err != nil {
			return err
		}
		m.Deleted = time.UnixMilli(deleted)
		if tags != nil {
			for _, name := range strings.Split(*tags, ",") {
				m.Tags = append(m.Tags, oci.Tag(name))
			}
			slices.Sort(m.Tags)
		}
		if err := m.Digest.UnmarshalText([]byte(digest)); err != nil {
			return err
		}
		found = append(found, m)
		return nil
	}, `SELECT t.id, t.digest, t.media_type, t.size, t.deleted_at, t.actor, t.credential, t.method,
			(SELECT CAST(COALESCE(SUM(b.size), 0) AS BIGINT) FROM trashed_manifest_blob tb JOIN blob b ON b.id = tb.blob_id WHERE tb.manifest_id = t.id),
			(SELECT string_agg(name, ',') FROM (SELECT name FROM trashed_tag tt WHERE tt.manifest_id = t.id ORDER BY name LIMIT $4) AS page)
		FROM repository r JOIN trashed_manifest t ON t.repository_id = r.id AND (t.deleted_at, t.id) < ($2, $3)
		WHERE r.name = $1 ORDER BY t.deleted_at DESC, t.id DESC LIMIT $5`, string(r), at, id, MaxTrashedTags, n)
	return found, err
}

// TrashPlace is the place of a manifest in the order of a trash: by time of deletion, to the millisecond, and then by ID.
type TrashPlace struct {
	Deleted time.Time
	ID      int64
}

func (p TrashPlace) bounds() (at, id int64) {
	if p == (TrashPlace{}) {
		return math.MaxInt64, math.MaxInt64
	}
	return p.Deleted.UnixMilli(), p.ID
}

// TrashedRepositories returns up to n names of repositories that have something in their trash: the one whose name is scope, or those whose
// names begin with it if it ends in '/', or all of them if it is empty; in ASCII order after the given name.
func (db *DB) TrashedRepositories(ctx context.Context, scope, after string, n int) ([]string, error) {
	low, high := scopeBounds(scope)
	return db.page(ctx, `SELECT name FROM repository WHERE name >= $1 AND name < $2 AND name > $3
		AND EXISTS (SELECT 1 FROM trashed_manifest t WHERE t.repository_id = repository.id) ORDER BY name LIMIT $4`, low, high, asName(after), n)
}
