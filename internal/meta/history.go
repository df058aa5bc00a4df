package meta

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// The history of a repository is its tag log, found by the repository's name: what the name stood for at a time does not
// change when the repository is dropped and made again. What is asked for as of a time costs as much as there are tags, however often
// they moved: each tag is one search in an index.

// MovePlace is the place of a move in the order of a log: by time, to the millisecond, and then by ID.
type MovePlace struct {
	At time.Time
	ID int64
}

// TagMoves returns up to n moves of a tag, or of all tags if that is empty, that come before a place, the last first; the zero place stands for
// the end. A repository that never existed has none.
func (db *DB) TagMoves(ctx context.Context, r oci.Repository, tag oci.Tag, before MovePlace, n int) ([]TagMove, error) {
	at, id := int64(math.MaxInt64), int64(math.MaxInt64)
	if before != (MovePlace{}) {
		at, id = before.At.UnixMilli(), before.ID
	}
	if tag != "" {
		return db.tagMoves(ctx, `SELECT l.id, l.tag, l.old_digest, l.new_digest, l.at, l.actor, l.credential, l.method FROM tag_log l
			WHERE l.repository = $1 AND l.tag = $2 AND (l.at, l.id) < ($3, $4) ORDER BY l.at DESC, l.id DESC LIMIT $5`, string(r), string(tag), at, id, n)
	}
	return db.tagMoves(ctx, `SELECT l.id, l.tag, l.old_digest, l.new_digest, l.at, l.actor, l.credential, l.method FROM tag_log l
		WHERE l.repository = $1 AND (l.at, l.id) < ($2, $3) ORDER BY l.at DESC, l.id DESC LIMIT $4`, string(r), at, id, n)
}

// TagState is what a tag pointed to at a time, and since when.
type TagState struct {
	Tag    oci.Tag
	Digest oci.Digest // zero if the tag was not there
	Since  time.Time  // zero if the tag had never moved
}

// TagAt returns what a tag pointed to at a time. It returns ErrNotFound if the tag was not there.
func (db *DB) TagAt(ctx context.Context, r oci.Repository, tag oci.Tag, at time.Time) (TagState, error) {
	var digest *string
	var since int64
	err := db.queryRow(ctx, `SELECT l.new_digest, l.at FROM tag_log l
		WHERE l.repository = $1 AND l.tag = $2 AND l.at <= $3 ORDER BY l.at DESC, l.id DESC LIMIT 1`,
		string(r), string(tag), at.UnixMilli()).Scan(&digest, &since)
	if err == nil && digest == nil {
		err = ErrNotFound
	}
	if err != nil {
		return TagState{}, err
	}
	s := TagState{Tag: tag, Since: time.UnixMilli(since)}
	return s, s.Digest.UnmarshalText([]byte(*digest))
}

// TagChange is a tag at two times.
type TagChange struct{ From, To TagState }

// TagChanges looks at up to n tags that a repository has ever had, in ASCII order after the given one, and returns those that were there at one of
// two times, with what they pointed to; the zero time stands for now. next is the tag to go on after, empty if there are no more.
func (db *DB) TagChanges(ctx context.Context, r oci.Repository, from, to time.Time, after oci.Tag, n int) (changes []TagChange, next oci.Tag, err error) {
	changes = []TagChange{}
	times := [2]int64{math.MaxInt64, math.MaxInt64}
	for i, t := range []time.Time{from, to} {
		if !t.IsZero() {
			times[i] = t.UnixMilli()
		}
	}
	seen := 0
	err = db.query(ctx, func(scan func(...any) error) error {
		var tag oci.Tag
		var then, later *string
		var thenAt, laterAt *int64
		if err := scan(&tag, &then, &thenAt, &later, &laterAt); err != nil {
			return err
		}
		if seen++; seen == n {
			next = tag
		}
		if then == nil && later == nil {
			return nil
		}
		c := TagChange{TagState{Tag: tag, Since: timeOf(thenAt)}, TagState{Tag: tag, Since: timeOf(laterAt)}}
		changes = append(changes, c)
		last := &changes[len(changes)-1]
		return errors.Join(readDigest(&last.From.Digest, then), readDigest(&last.To.Digest, later))
	}, `WITH RECURSIVE page (name, number) AS (
			SELECT (SELECT l.tag FROM tag_log l WHERE l.repository = $1 AND l.tag > $2 ORDER BY l.tag LIMIT 1), 1
			UNION ALL
			SELECT (SELECT l.tag FROM tag_log l WHERE l.repository = $1 AND l.tag > page.name ORDER BY l.tag LIMIT 1), page.number + 1
			FROM page WHERE page.name IS NOT NULL AND page.number < $3)
		SELECT page.name,
			(SELECT l.new_digest FROM tag_log l WHERE l.repository = $1 AND l.tag = page.name AND l.at <= $4 ORDER BY l.at DESC, l.id DESC LIMIT 1),
			(SELECT l.at FROM tag_log l WHERE l.repository = $1 AND l.tag = page.name AND l.at <= $4 ORDER BY l.at DESC, l.id DESC LIMIT 1),
			(SELECT l.new_digest FROM tag_log l WHERE l.repository = $1 AND l.tag = page.name AND l.at <= $5 ORDER BY l.at DESC, l.id DESC LIMIT 1),
			(SELECT l.at FROM tag_log l WHERE l.repository = $1 AND l.tag = page.name AND l.at <= $5 ORDER BY l.at DESC, l.id DESC LIMIT 1)
		FROM page WHERE page.name IS NOT NULL`,
		string(r), asName(string(after)), n, times[0], times[1])
	return changes, next, err
}

// readDigest reads a digest that may be null.
func readDigest(d *oci.Digest, text *string) error {
	if text == nil {
		return nil
	}
	return d.UnmarshalText([]byte(*text))
}

// LoggedRepositories returns up to n names of repositories that have a history, be they there or not, in ASCII order after the given one: the one whose
// name is scope, or those whose names begin with it if it ends in '/', or all of them if it is empty.
func (db *DB) LoggedRepositories(ctx context.Context, scope, after string, n int) ([]string, error) {
	low, high := scopeBounds(scope)
	if after = asName(after); after >= low {
		low = after + " " // which comes before all that begins with it
	}
	return db.page(ctx, `WITH RECURSIVE page (name, number) AS (
			SELECT (SELECT l.repository FROM tag_log l WHERE l.repository >= $1 AND l.repository < $2 ORDER BY l.repository LIMIT 1), 1
			UNION ALL
			SELECT (SELECT l.repository FROM tag_log l WHERE l.repository > page.name AND l.repository < $2 ORDER BY l.repository LIMIT 1), page.number + 1
			FROM page WHERE page.name IS NOT NULL AND page.number < $3)
		SELECT name FROM page WHERE name IS NOT NULL`, low, high, n)
}

// Kept says where a manifest is.
type Kept string

// The places of manifests.
const (
	KeptInRepository Kept = "repository"
	KeptInTrash      Kept = "trash"
	KeptNowhere      Kept = "gone"
)

// Whereabouts tells where manifests of a repository are.
func (db *DB) Whereabouts(ctx context.Context, r oci.Repository, digests []oci.Digest) (map[oci.Digest]Kept, error) {
	kept := make(map[oci.Digest]Kept, len(digests))
	if len(digests) == 0 {
		return kept, nil
	}
	texts := make([]string, len(digests))
	for i, d := range digests {
		texts[i] = d.String()
		kept[d] = KeptNowhere
	}
	err := db.query(ctx, func(scan func(...any) error) error {
		var text string
		var here bool
		if err := scan(&text, &here); err != nil {
			return err
		}
		var d oci.Digest
		err := d.UnmarshalText([]byte(text))
		if kept[d] = KeptInTrash; here {
			kept[d] = KeptInRepository
		}
		return err
	}, `SELECT m.digest, 1 = 1 FROM `+db.list("$2")+` CROSS JOIN repository r CROSS JOIN manifest m
			WHERE r.name = $1 AND m.repository_id = r.id AND m.digest = list.value
		UNION ALL SELECT t.digest, 1 = 0 FROM `+db.list("$2")+` CROSS JOIN repository r CROSS JOIN trashed_manifest t
			WHERE r.name = $1 AND t.repository_id = r.id AND t.digest = list.value`, string(r), jsonOf(texts))
	return kept, err
}

// Errors of a restore, for one tag each.
var (
	// ErrChanged: the tag is not what it was when the restore was planned.
	ErrChanged = errors.New("the tag has moved meanwhile")
	// ErrGone: the manifest is neither in the repository nor in its trash.
	ErrGone = errors.New("the manifest is gone")
)

// TagRestore is a tag that is to be set back.
type TagRestore struct {
	Tag  oci.Tag
	From oci.Digest // what it points to now; zero if it is not there
	To   oci.Digest // what it is to point to; zero to delete it
}

// AllowRestore is Allow for what a tag is to point to, zero if it is to be deleted.
type AllowRestore func(tag oci.Tag, current, next oci.Digest) error

// RestoreTags sets tags of a repository back, in one transaction, and takes what they pointed to out of the trash. Each tag is changed or has an error: ErrChanged,
// ErrGone, a *policy.ProtectedError, or what allow, if not nil, says. revived is how many manifests were taken out of the trash.
func (db *DB) RestoreTags(ctx context.Context, r oci.Repository, restores []TagRestore, allow AllowRestore, o Origin, now time.Time) (failed []error, revived int, err error) {
	err = db.update(ctx, func(t *tx) error {
		failed, revived = make([]error, len(restores)), 0
		repo, err := t.lockRepository(r)
		if errors.Is(err, ErrNotFound) { // without manifests, and without tags
			for i := range restores {
				failed[i] = ErrGone
			}
			return nil
		}
		if err != nil {
			return err
		}
		held, err := t.changeable(r)
		if err != nil {
			return err
		}
		g, err := t.guard(access.Organization(r))
		if err != nil {
			return err
		}
		t.touch(r)
		tags := make([]oci.Tag, len(restores))
		for i, one := range restores {
			tags[i] = one.Tag
		}
		current, err := t.findTags(repo, tags)
		if err != nil {
			return err
		}
		for i, one := range restores {
			n, err := t.restoreTag(repo, r, one, current[one.Tag], held, allow, o, now)
			var refused *refusal
			switch {
			case errors.As(err, &refused):
				failed[i] = refused.error
			case errors.Is(err, ErrChanged), errors.Is(err, ErrGone):
				failed[i] = err
			case err != nil:
				return err
			}
			revived += n
		}
		return g.check(nil)
	})
	return failed, revived, err
}

// refusal is what an AllowRestore or a policy has said.
type refusal struct{ error }

// restoreTag changes nothing if it fails with a refusal, ErrChanged or ErrGone.
func (t *tx) restoreTag(repo int64, r oci.Repository, one TagRestore, current pointer, held *policy.Set, allow AllowRestore, o Origin, now time.Time) (revived int, err error) {
	switch current.digest {
	case one.To:
		return 0, nil
	case one.From:
	default:
		return 0, ErrChanged
	}
	if allow != nil {
		if err := allow(one.Tag, current.digest, one.To); err != nil {
			return 0, &refusal{err}
		}
	}
	if err := held.CheckTag(r, one.Tag, current.digest, one.To); err != nil {
		return 0, &refusal{err}
	}
	if one.To.IsZero() {
		return 0, t.deleteTag(repo, r, one.Tag, one.From, o, now)
	}
	manifest, came, err := t.revive(repo, r, one.To)
	if errors.Is(err, ErrNotFound) {
		err = ErrGone
	}
	if err != nil {
		return 0, err
	}
	if err := t.setTag(repo, r, one.Tag, current, manifest, one.To, o, now); err != nil {
		return 0, err
	}
	if len(came) > 0 && came[0].digest == one.To {
		for _, tag := range came[0].lost {
			if tag.name == one.Tag {
				err = t.givePull(repo, tag)
			}
		}
		if err != nil {
			return 0, err
		}
	}
	return len(came), t.record(o, r, describe(one.To, []oci.Tag{one.Tag}, map[oci.Tag]pointer{one.Tag: current}), now)
}

// revived is a manifest that was taken out of the trash.
type revived struct {
	id      int64
	digest  oci.Digest
	deleted int64
	lost    []lostTag
}

// lostTag is a tag that a manifest in the trash had, and when it was pulled last, if that is known.
type lostTag struct {
	name   oci.Tag
	pulled *int64
}

// revive returns a manifest of a repository that the caller has locked, and takes it out of the trash if it lies there. The children of an index come with it, and
// what has a manifest that comes out of the trash as its subject and was not deleted before it. What came begins with the manifest itself, if it did, and then has the last deleted
// first. It returns ErrNotFound if there is no such manifest.
func (t *tx) revive(repo int64, r oci.Repository, d oci.Digest) (id int64, came []revived, err error) {
	first := revived{digest: d, deleted: math.MaxInt64}
	err = t.queryRow(`SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2`, repo, d.String()).Scan(&first.id)
	if errors.Is(err, ErrNotFound) {
		if first, err = t.untrash(repo, r, d); err == nil {
			came = append(came, first)
		}
	}
	if err != nil {
		return 0, nil, err
	}
	along := len(came)
	for open := []revived{first}; len(open) > 0; open = open[1:] {
		var more []oci.Digest
		if err := t.query(func(scan func(...any) error) error {
			var text string
			if err := scan(&text); err != nil {
				return err
			}
			var d oci.Digest
			err := d.UnmarshalText([]byte(text))
			more = append(more, d)
			return err
		}, `SELECT tm.digest FROM manifest_child c JOIN trashed_manifest tm ON tm.repository_id = c.repository_id AND tm.digest = c.digest WHERE c.manifest_id = $1
			UNION ALL SELECT tm.digest FROM manifest m JOIN trashed_manifest tm ON tm.repository_id = m.repository_id AND tm.subject = m.digest
			WHERE m.id = $1 AND tm.deleted_at >= $2`, open[0].id, open[0].deleted); err != nil {
			return 0, nil, err
		}
		for _, d := range more {
			next, err := t.untrash(repo, r, d)
			if errors.Is(err, ErrNotFound) {
				continue // it came along with another one
			}
			if err != nil {
				return 0, nil, err
			}
			came, open = append(came, next), append(open, next)
		}
	}
	slices.SortFunc(came[along:], func(a, b revived) int { return cmp.Or(cmp.Compare(b.deleted, a.deleted), cmp.Compare(b.id, a.id)) })
	return first.id, came, nil
}

// untrash makes a manifest in the trash one of the repository again, with the number that it had. Blobs that came and went meanwhile may
// be missing then, as from a sparse push.
func (t *tx) untrash(repo int64, r oci.Repository, d oci.Digest) (m revived, err error) {
	m.digest = d
	var mediaType string
	n := NewManifest{Repository: r, Digest: d}
	var pulled *int64
	if err := t.queryRow(`SELECT id, media_type, body, deleted_at, pulled_at FROM trashed_manifest WHERE repository_id = $1 AND digest = $2`, repo, d.String()).
		Scan(&m.id, &mediaType, &n.Body, &m.deleted, &pulled); err != nil {
		return m, err
	}
	if err := t.query(func(scan func(...any) error) error {
		var tag lostTag
		err := scan(&tag.name, &tag.pulled)
		m.lost = append(m.lost, tag)
		return err
	}, `SELECT name, pulled_at FROM trashed_tag WHERE manifest_id = $1 ORDER BY name`, m.id); err != nil {
		return m, err
	}
	if n.Parsed, err = oci.ParseManifest(mediaType, n.Body); err != nil {
		return m, err
	}
	_, _, err = t.insertManifest(repo, n, func() (int64, error) {
		_, err := t.exec(`INSERT INTO manifest (id, repository_id, digest, media_type, size, artifact_type, subject, annotations, created_at, body)
			SELECT id, repository_id, digest, media_type, size, artifact_type, subject, annotations, created_at, body FROM trashed_manifest WHERE id = $1`, m.id)
		return m.id, err
	})
	if err == nil { // whoever wants it back counts on it
		_, err = t.exec(`INSERT INTO manifest_use (manifest_id, pulled_at, pushed_at) VALUES ($1, $2, `+t.now+`)`, m.id, pulled)
	}
	return m, err
}

// givePull notes when a tag was pulled last that is given back, unless it was pulled since.
func (t *tx) givePull(repo int64, tag lostTag) error {
	if tag.pulled == nil {
		return nil
	}
	_, err := t.exec(`INSERT INTO tag_pull (repository_id, name, pulled_at) VALUES ($1, $2, $3)
		ON CONFLICT (repository_id, name) DO UPDATE SET pulled_at = excluded.pulled_at WHERE tag_pull.pulled_at < excluded.pulled_at`, repo, string(tag.name), *tag.pulled)
	return err
}

// Undeleted says what came of an Undelete.
type Undeleted struct {
	Manifests int       // taken out of the trash
	Tags      []oci.Tag // given back
	Taken     []oci.Tag // that the manifests had, and that were set anew since
}

// Undelete takes a manifest out of the trash with what came with it, and gives each of them back the tags that it lost, but for those that are there again. It returns
// ErrNotFound if it is not in the trash. allow, if not nil, is asked for each of these tags, or about an empty one if there are none; with an error nothing happens, and it
// is returned as it is.
func (db *DB) Undelete(ctx context.Context, r oci.Repository, d oci.Digest, allow AllowRestore, o Origin, now time.Time) (u Undeleted, err error) {
	err = db.update(ctx, func(t *tx) error {
		u = Undeleted{}
		repo, err := t.lockRepository(r)
		if err != nil {
			return err
		}
		if _, err := t.changeable(r); err != nil {
			return err
		}
		g, err := t.guard(access.Organization(r))
		if err != nil {
			return err
		}
		var id int64
		if err := t.queryRow(`SELECT id FROM trashed_manifest WHERE repository_id = $1 AND digest = $2`, repo, d.String()).Scan(&id); err != nil {
			return err
		}
		t.touch(r)
		_, came, err := t.revive(repo, r, d)
		if err != nil {
			return err
		}
		u.Manifests = len(came)
		for i, m := range came {
			given, err := t.giveBack(repo, r, m, &u, allow, o, now)
			if err != nil {
				return err
			}
			if i > 0 && len(given) == 0 {
				continue
			}
			if err := t.record(o, r, describe(m.digest, given, nil), now); err != nil {
				return err
			}
		}
		if allow != nil && len(u.Tags) == 0 {
			if err := allow("", oci.Digest{}, d); err != nil {
				return err
			}
		}
		return g.check(nil)
	})
	return u, err
}

// giveBack sets the tags that a manifest lost, but for those that are there, and returns them.
func (t *tx) giveBack(repo int64, r oci.Repository, m revived, u *Undeleted, allow AllowRestore, o Origin, now time.Time) (given []oci.Tag, err error) {
	names := make([]oci.Tag, len(m.lost))
	for i := range m.lost {
		names[i] = m.lost[i].name
	}
	there, err := t.findTags(repo, names)
	if err != nil {
		return nil, err
	}
	for _, tag := range m.lost {
		if _, taken := there[tag.name]; taken {
			u.Taken = append(u.Taken, tag.name)
			continue
		}
		if allow != nil {
			if err := allow(tag.name, oci.Digest{}, m.digest); err != nil {
				return nil, err
			}
		}
		if err := t.setTag(repo, r, tag.name, pointer{}, m.id, m.digest, o, now); err != nil {
			return nil, err
		}
		if err := t.givePull(repo, tag); err != nil {
			return nil, err
		}
		given = append(given, tag.name)
	}
	u.Tags = append(u.Tags, given...)
	return given, nil
}
