package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
)

// childVariable is set where the test binary runs itself as a process of its own.
const childVariable = "META_TEST_CHILD"

// databaseVariable is set where the test binary runs itself to test another database than SQLite.
const databaseVariable = "META_TEST_DATABASE"

// newDB opens an empty database. When the test ends, what the package promises must hold in it.
func newDB(t testing.TB) *DB {
	t.Helper()
	switch os.Getenv(databaseVariable) {
	case "postgres":
		return openDB(t, migratedPostgres(t).URL)
	case "pgbouncer":
		return openDB(t, service.PgBouncer(t, migratedPostgres(t)))
	}
	return openDB(t, filepath.Join(t.TempDir(), "berth.db"))
}

// migratedPostgres returns a database of PostgreSQL that has its tables.
var migratedPostgres = service.PostgresCopies(func(url string) error {
	db, err := Open(context.Background(), url, Options{})
	if err != nil {
		return err
	}
	return db.Close()
})

func openDB(t testing.TB, source string) *DB {
	t.Helper()
	db, err := Open(t.Context(), source, Options{Timeout: time.Minute}) // the machine may be busy
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closed := false
		if db.embedded() {
			w := lite(db).writer
			w.mu.RLock()
			closed = w.closed
			w.mu.RUnlock()
		}
		if !closed {
			audit(t, db)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// lite returns what a SQLite database is made of.
func lite(db *DB) *embedded { return db.engine.(*embedded) }

// audit fails if any row contradicts the promises of the package.
func audit(t testing.TB, db *DB) {
	t.Helper()
	wrong, err := db.Integrity(context.Background())
	if err != nil || len(wrong) > 0 {
		t.Errorf("integrity: %v, %v", wrong, err)
	}
	if err := db.CheckUsage(context.Background(), func(e *UsageError) error { t.Error(e); return nil }); err != nil {
		t.Errorf("usage: %v", err)
	}
	for what, query := range map[string]string{
		"links that are marked as needed and are not": `SELECT COUNT(*) FROM repository_blob rb WHERE unreferenced_since IS NULL
			AND NOT EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id)
			AND NOT EXISTS (SELECT 1 FROM trashed_manifest_blob tb WHERE tb.repository_id = rb.repository_id AND tb.blob_id = rb.blob_id)`,
		"links that are needed and not marked so": `SELECT COUNT(*) FROM repository_blob rb WHERE unreferenced_since IS NOT NULL
			AND (EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id)
				OR EXISTS (SELECT 1 FROM trashed_manifest_blob tb WHERE tb.repository_id = rb.repository_id AND tb.blob_id = rb.blob_id))`,
		"manifests that are in the trash and not": `SELECT COUNT(*) FROM manifest JOIN trashed_manifest t USING (repository_id, digest)`,
		"totals that are wrong": `SELECT COUNT(*) FROM (SELECT SUM(blobs) AS blobs, SUM(bytes) AS bytes FROM total) AS sum
			WHERE blobs IS DISTINCT FROM (SELECT COUNT(*) FROM blob) OR bytes IS DISTINCT FROM (SELECT COALESCE(SUM(size), 0) FROM blob)`,
		"blobs without a repository":        `SELECT COUNT(*) FROM blob WHERE id NOT IN (SELECT blob_id FROM repository_blob)`,
		"blobs whose bytes are doomed":      `SELECT COUNT(*) FROM blob JOIN doomed_object USING (storage_key)`,
		"uploads whose bytes are doomed":    `SELECT COUNT(*) FROM upload JOIN doomed_object USING (storage_key)`,
		"blobs whose bytes an upload holds": `SELECT COUNT(*) FROM upload JOIN blob USING (storage_key)`,
		"blobs that are missing and present": `SELECT COUNT(*) FROM manifest_missing_blob mm JOIN blob b ON b.digest = mm.digest
			JOIN repository_blob rb ON rb.repository_id = mm.repository_id AND rb.blob_id = b.id`,
		"parts that lie in another repository than their manifest": `SELECT COUNT(*) FROM manifest m
			JOIN (SELECT manifest_id, repository_id FROM manifest_blob UNION ALL SELECT manifest_id, repository_id FROM manifest_missing_blob
				UNION ALL SELECT manifest_id, repository_id FROM manifest_child) p ON p.manifest_id = m.id AND p.repository_id <> m.repository_id`,
		"parts of the trash that lie in another repository": `SELECT COUNT(*) FROM trashed_manifest t
			JOIN trashed_manifest_blob b ON b.manifest_id = t.id AND b.repository_id <> t.repository_id`,
		"moves of a tag whose times go back": `SELECT COUNT(*) FROM tag_log l
			WHERE at < (SELECT o.at FROM tag_log o WHERE o.repository_id = l.repository_id AND o.tag = l.tag AND o.id < l.id ORDER BY o.id DESC LIMIT 1)`,
		"tags that lie in another repository than their manifest": `SELECT COUNT(*) FROM tag t
			JOIN manifest m ON m.id = t.manifest_id WHERE m.repository_id <> t.repository_id`,
		"repositories that hold nothing": `SELECT COUNT(*) FROM repository WHERE id NOT IN (SELECT repository_id FROM repository_blob)
			AND id NOT IN (SELECT repository_id FROM manifest) AND id NOT IN (SELECT repository_id FROM trashed_manifest) AND public IS NULL`,
		"repositories that are listed wrongly": `SELECT COUNT(*) FROM repository
			WHERE listed <> CASE WHEN EXISTS (SELECT 1 FROM manifest WHERE repository_id = repository.id) THEN 1 ELSE 0 END`,
		"tags whose last move in the log is not what they are": `SELECT COUNT(*) FROM tag t JOIN manifest m ON m.id = t.manifest_id
			WHERE m.digest IS DISTINCT FROM (SELECT new_digest FROM tag_log l WHERE l.repository_id = t.repository_id AND l.tag = t.name ORDER BY id DESC LIMIT 1)`,
		"tags in the log that are not there": `SELECT COUNT(*) FROM tag_log l WHERE new_digest IS NOT NULL
			AND id = (SELECT MAX(id) FROM tag_log o WHERE o.repository_id = l.repository_id AND o.tag = l.tag)
			AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.repository_id = l.repository_id AND t.name = l.tag)`,
	} {
		var n int
		if err := db.read.QueryRow(query).Scan(&n); err != nil {
			t.Errorf("%s: %v", what, err)
		} else if n > 0 {
			t.Errorf("there are %d %s", n, what)
		}
	}
}

func count(t testing.TB, db *DB, table string) int {
	t.Helper()
	var n int
	if err := db.read.QueryRow("SELECT COUNT(*) FROM " + table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

var keys atomic.Int64

// newKey returns a key of the blob store that was never used.
func newKey() string { return fmt.Sprintf("key-%d", keys.Add(1)) }

func digestOf(seed any) oci.Digest { return oci.DigestBytes(oci.SHA256, fmt.Append(nil, seed)) }

func byTag(tag oci.Tag) oci.Reference { return oci.Reference{Tag: tag} }

func byDigest(d oci.Digest) oci.Reference { return oci.Reference{Digest: d} }

// at is a time to the precision of the database.
func at(seconds int64) time.Time { return time.Unix(1_700_000_000+seconds, 0) }

// commitBlob commits as the registry does: it looks at an object that is there already.
func commitBlob(ctx context.Context, db *DB, n NewBlob, intact func(key string) bool) error {
	for {
		err := db.CommitBlob(ctx, n)
		exists, ok := errors.AsType[*ExistsError](err)
		if !ok {
			return err
		}
		if n.Whole, n.Broken = exists.Key, ""; !intact(exists.Key) {
			n.Whole, n.Broken = "", exists.Key
		}
	}
}

// commit gives a blob to a repository and returns the key that was offered for it.
func commit(t testing.TB, db *DB, r oci.Repository, d oci.Digest, now time.Time) string {
	t.Helper()
	n := NewBlob{Repository: r, Digest: d, Size: 10, Key: newKey(), Now: now}
	if err := commitBlob(t.Context(), db, n, func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	return n.Key
}

func mount(t testing.TB, db *DB, into oci.Repository, d oci.Digest, now time.Time) {
	t.Helper()
	if err := db.MountBlob(t.Context(), into, "", d, now); err != nil {
		t.Fatal(err)
	}
}

// document is a manifest to be made.
type document struct {
	seed      any // makes its digest unique
	blobs     []oci.Digest
	foreign   []oci.Digest
	manifests []oci.Digest // makes it an index
	subject   oci.Digest
	artifact  string
	notes     map[string]string // annotations
}

// build returns the manifest, as it would be pushed to r with tags.
func (d document) build(t testing.TB, r oci.Repository, now time.Time, tags ...oci.Tag) NewManifest {
	t.Helper()
	descriptors := func(mediaType string, ds []oci.Digest) []oci.Descriptor {
		out := []oci.Descriptor{}
		for _, d := range ds {
			out = append(out, oci.Descriptor{MediaType: mediaType, Digest: d, Size: 10})
		}
		return out
	}
	fields := map[string]any{"schemaVersion": 2, "seed": fmt.Sprint(d.seed)}
	if len(d.manifests) > 0 {
		fields["manifests"] = descriptors(oci.MediaTypeImage, d.manifests)
	} else {
		blobs := slices.Concat(descriptors("application/vnd.oci.image.layer.v1.tar", d.blobs),
			descriptors("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", d.foreign))
		fields["config"], fields["layers"] = blobs[0], blobs[1:]
	}
	if !d.subject.IsZero() {
		fields["subject"] = oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: d.subject, Size: 1}
	}
	if d.artifact != "" {
		fields["artifactType"] = d.artifact
	}
	if d.notes != nil {
		fields["annotations"] = d.notes
	}
	body, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := oci.ParseManifest("", body)
	if err != nil {
		t.Fatal(err)
	}
	return NewManifest{
		Repository: r, Digest: oci.DigestBytes(oci.SHA256, body), Parsed: parsed, Body: body, Tags: tags, NeedBlobs: true,
		Origin: Origin{Actor: "tester", Method: "push"}, Now: now,
	}
}

// put pushes a manifest and returns it.
func put(t testing.TB, db *DB, n NewManifest) NewManifest {
	t.Helper()
	if _, err := db.PutManifest(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n
}

// image pushes an image of one blob.
func image(t testing.TB, db *DB, r oci.Repository, seed any, tags ...oci.Tag) NewManifest {
	t.Helper()
	blob := digestOf(fmt.Sprint("blob of ", seed))
	commit(t, db, r, blob, at(0))
	return put(t, db, document{seed: seed, blobs: []oci.Digest{blob}}.build(t, r, at(0), tags...))
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// collectAll takes away all that is unreferenced, without any grace.
func collectAll(t testing.TB, db *DB) Collected {
	t.Helper()
	before := time.Now().Add(time.Hour)
	links, err := db.UnreferencedBlobs(t.Context(), before, 1000)
	if err != nil {
		t.Fatal(err)
	}
	c, err := db.CollectBlobs(t.Context(), links, before, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}
