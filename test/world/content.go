package world

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/fsck"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Content returns everything that clients can learn of a registry, a line for each fact. All bytes are read.
func Content(t testing.TB, db *meta.DB, store blob.Store) []string {
	t.Helper()
	ctx := t.Context()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	repositories, err := db.Repositories(ctx, "", 10_000)
	Must(t, err)
	for _, name := range repositories {
		r := oci.Repository(name)
		tags, err := db.Tags(ctx, r, "", 10_000)
		Must(t, err)
		add("%s: %v", r, tags)
		for _, tag := range append(tags, "v1") {
			moves, err := db.TagLog(ctx, r, oci.Tag(tag))
			Must(t, err)
			add("%s:%s: %v", r, tag, moves)
			m, err := db.Manifest(ctx, r, oci.Reference{Tag: oci.Tag(tag)}, true)
			if err == nil {
				add("%s:%s: %s", r, tag, m.Digest)
			}
		}
	}
	rows, _, _, err := db.JournalCheckpoint(ctx, meta.JournalPlace{})
	Must(t, err)
	for _, r := range rows {
		public := "as its organization"
		if r.Public != nil {
			public = fmt.Sprint(*r.Public)
		}
		add("repository %d %s of %d, public: %s", r.RepositoryID, r.Repository, r.At, public)
	}
	trashed, err := db.TrashedRepositories(ctx, "", "", 1000)
	Must(t, err)
	for _, r := range trashed {
		trash, err := db.Trash(ctx, oci.Repository(r), meta.TrashPlace{}, 1000)
		Must(t, err)
		for _, m := range trash {
			add("in the trash: %+v", m)
		}
	}
	manifests, err := db.StoredManifests(ctx, 0, 100_000)
	Must(t, err)
	for _, m := range manifests {
		present, missing, err := db.ManifestParts(ctx, m.ID)
		Must(t, err)
		slices.Sort(present)
		slices.Sort(missing)
		d, err := oci.ParseDigest(m.Digest)
		Must(t, err)
		referrers, _, err := db.Referrers(ctx, m.Repository, d, "", 0, 1000, 1<<20)
		Must(t, err)
		for i := range referrers {
			referrers[i].ID = 0
		}
		add("manifest %s %s %s %d %s: %v, not here %v, referrers %v", m.Repository, m.Digest, m.MediaType, m.Size, DigestOf(m.Body), present, missing, referrers)
	}
	blobs, err := db.StoredBlobs(ctx, 0, 100_000)
	Must(t, err)
	for _, b := range blobs {
		d, size, err := blob.HashObject(ctx, store, b.Key, oci.SHA256)
		add("blob %s %d %t: %s %d %v", b.Digest, b.Size, b.Needed, d, size, err)
	}
	links, err := db.UnreferencedBlobs(ctx, time.Now().Add(time.Hour), 100_000)
	Must(t, err)
	for _, l := range links {
		add("no manifest needs %s in %s", l.Digest, l.Repository)
	}
	slices.Sort(lines)
	return lines
}

// WantSame fails the test unless a registry has what another one had, each as Content tells it.
func WantSame(t testing.TB, had, has []string) {
	t.Helper()
	if len(had) < 2 {
		t.Fatalf("the registry had nothing: %v", had)
	}
	for _, line := range had {
		if _, found := slices.BinarySearch(has, line); !found {
			t.Errorf("lost: %s", line)
		}
	}
	for _, line := range has {
		if _, found := slices.BinarySearch(had, line); !found {
			t.Errorf("new: %s", line)
		}
	}
}

// WantClean fails the test if fsck finds damage.
func WantClean(t testing.TB, db *meta.DB, store blob.Store) {
	t.Helper()
	_, err := fsck.Run(t.Context(), db, store, fsck.Options{Deep: true, Found: func(f fsck.Finding) {
		if f.Damage {
			t.Errorf("fsck: %+v", f)
		}
	}})
	Must(t, err)
}
