package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// PruneOptions say which sets stay.
type PruneOptions struct {
	// Keep is how many of the newest sets stay, 1 at least.
	Keep int
	// Newer, if not zero, keeps also what is of after this time.
	Newer time.Time
	// Settled is the hour before which an object was begun that may go: what is younger may be part of a set that is being made.
	Settled time.Time
	// Temp is a folder for the databases of all sets that stay; empty stands for the system's.
	Temp string
}

// Settled returns the hour before which every object is of a set, noted, or garbage: no blob takes a day to be copied.
func Settled(now time.Time) time.Time { return now.Add(-25 * time.Hour).Truncate(time.Hour) }

// Pruned says what a prune took away.
type Pruned struct {
	Sets    []Set
	Objects int64
	Bytes   int64
}

// Prune deletes sets, then all objects that no set has. Broken off at any point, it leaves nothing but work for the next one.
func Prune(ctx context.Context, target blob.Store, opts PruneOptions) (done Pruned, err error) {
	keep := make(map[string]bool) // what no set's database has
	// Before the sets: a set that is finished meanwhile is there before the notes of what it has are deleted.
	if err := eachPending(ctx, target, func(blobs []meta.MovingBlob) error {
		for _, b := range blobs {
			keep[b.Key] = true
		}
		return nil
	}); err != nil {
		return done, err
	}
	sets, err := Sets(ctx, target)
	if err != nil {
		return done, err
	}
	var stay []Set
	for i, s := range sets {
		if len(sets)-i <= max(opts.Keep, 1) || !opts.Newer.IsZero() && s.At.After(opts.Newer) {
			stay = append(stay, s)
			continue
		}
		if err := target.DeleteDocument(ctx, setRoot+s.Name+extension); err != nil {
			return done, err
		}
		done.Sets = append(done.Sets, s)
	}
	dir, remove, err := MakeTemp(opts.Temp)
	if err != nil {
		return done, err
	}
	defer remove()
	var databases []*meta.DB
	defer func() {
		for _, db := range databases {
			err = errors.Join(err, db.Close())
		}
	}()
	for _, s := range stay {
		keep[s.Database.Key] = true
		db, err := s.Fetch(ctx, target, dir)
		if err != nil {
			return done, err // rather nothing than too much
		}
		databases = append(databases, db)
	}
	known := func(key string) (bool, error) {
		for _, db := range databases {
			if known, err := db.KnownKey(ctx, key); err != nil || known {
				return known, err
			}
		}
		return keep[key], nil
	}
	for info, err := range target.List(ctx, time.Time{}, opts.Settled) {
		if err != nil {
			return done, err
		}
		known, err := known(info.Key)
		if err != nil {
			return done, err
		}
		if known {
			continue
		}
		if err := target.Delete(ctx, info.Key); err != nil {
			return done, err
		}
		done.Objects++
		done.Bytes += info.Size
	}
	return done, nil
}

// Verify checks that everything is there that a set has: objects by their size, with deep by their digest. found is called for what is
// wrong, by one goroutine at a time, and blobs are noted, so that the next set has them copied anew. It returns how much it looked at.
func Verify(ctx context.Context, target blob.Store, s Set, deep bool, parallel int, temp string, found func(what string)) (blobs, bytes int64, err error) {
	dir, remove, err := MakeTemp(temp)
	if err != nil {
		return 0, 0, err
	}
	defer remove()
	db, err := s.Fetch(ctx, target, dir)
	if errors.Is(err, ErrDamaged) {
		found(err.Error())
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer db.Close()
	wrong, err := db.Integrity(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, w := range wrong {
		found("the database: " + w)
	}
	for after := int64(0); ; {
		rows, err := db.MovingBlobs(ctx, after, page)
		if err != nil || len(rows) == 0 {
			return blobs, bytes, err
		}
		after = rows[len(rows)-1].ID
		results := make([]string, len(rows))
		group, grouped := errgroup.WithContext(ctx)
		group.SetLimit(parallel)
		for i, b := range rows {
			blobs++
			bytes += b.Size
			group.Go(func() (err error) {
				results[i], err = verifyBlob(grouped, target, b, deep)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return blobs, bytes, err
		}
		var wrong []string
		for i, what := range results {
			if what != "" {
				found("blob " + rows[i].Digest + ": " + what)
				wrong = append(wrong, rows[i].Digest)
			}
		}
		if err := noteDamaged(ctx, target, wrong); err != nil {
			return blobs, bytes, err
		}
	}
}

// verifyBlob returns what is wrong with a blob's object, or "".
func verifyBlob(ctx context.Context, target blob.Store, b meta.MovingBlob, deep bool) (string, error) {
	size, err := target.Stat(ctx, b.Key)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return fmt.Sprintf("object %s is missing", b.Key), nil
	case err != nil:
		return "", err
	case size != b.Size:
		return fmt.Sprintf("object %s has %d bytes of %d", b.Key, size, b.Size), nil
	case !deep:
		return "", nil
	}
	want, err := oci.ParseDigest(b.Digest)
	if err != nil {
		return err.Error(), nil
	}
	got, _, err := blob.HashObject(ctx, target, b.Key, want.Algorithm())
	if err != nil {
		return broken(ctx, err)
	}
	if got != want {
		return fmt.Sprintf("the bytes of object %s are %s", b.Key, got), nil
	}
	return "", nil
}
