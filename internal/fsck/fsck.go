// Package fsck compares what the database says with the bytes that are stored.
//
// What holds true: a check changes nothing; a repair deletes nothing that a manifest
// needs, and says of every finding whether it was mended; memory does not grow with the registry.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Options say how thorough a check is.
type Options struct {
	// Deep reads every byte and checks digests; else existence and size only.
	Deep bool
	// Repair mends what can be mended. An embedded database must not be in use by a server.
	Repair bool
	// Settled, if not zero, tells that servers may be at work: what no row speaks of and was begun later can be
	// part of a push, and is left alone.
	Settled time.Time
	// Found is called for each finding as it is made.
	Found func(Finding)
}

// Finding is something that is not as it should be.
type Finding struct {
	// Damage tells that content is lost or wrong; else it is a leftover, such as a
	// crash leaves and the collector takes away in time.
	Damage bool   `json:"damage"`
	Object string `json:"object"`
	What   string `json:"what"`
	Mended bool   `json:"mended"`
}

// Report sums a check up.
type Report struct {
	Blobs     int64 `json:"blobs"`
	Bytes     int64 `json:"bytes"`
	Manifests int64 `json:"manifests"`
	Trash     int64 `json:"trash"` // manifests that were deleted and can be taken back
	Uploads   int64 `json:"uploads"`
	Damaged   int64 `json:"damaged"`  // findings of damage that were not mended
	Leftover  int64 `json:"leftover"` // other findings that were not mended
	Mended    int64 `json:"mended"`
}

const page = 500

type check struct {
	db     *meta.DB
	store  blob.Store
	opts   Options
	report Report
}

// Run checks everything. The error tells that the check could not be made, not that
// it found something.
func Run(ctx context.Context, db *meta.DB, store blob.Store, opts Options) (Report, error) {
	c := &check{db: db, store: store, opts: opts}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"the database", c.integrity},
		{"manifests", c.manifests},
		{"the trash", c.trash},
		{"blobs", c.blobs},
		{"links", c.links},
		{"usage", c.usage},
		{"uploads", c.uploads},
		{"objects", c.objects},
	} {
		if err := step.run(ctx); err != nil {
			return c.report, fmt.Errorf("check %s: %w", step.name, err)
		}
	}
	return c.report, nil
}

// found notes a finding and mends it, if that is possible and asked for.
func (c *check) found(damage bool, object, what string, mend func() error) error {
	f := Finding{Damage: damage, Object: object, What: what}
	if mend != nil && c.opts.Repair {
		switch err := mend(); {
		case errors.Is(err, meta.ErrReferenced), errors.Is(err, meta.ErrCancelled):
			return nil // beside a running server: it has been used since it was looked at, and is looked at the next time
		case err != nil:
			return fmt.Errorf("mend %s: %w", object, err)
		}
		f.Mended = true
	}
	switch {
	case f.Mended:
		c.report.Mended++
	case damage:
		c.report.Damaged++
	default:
		c.report.Leftover++
	}
	if c.opts.Found != nil {
		c.opts.Found(f)
	}
	return nil
}

func (c *check) integrity(ctx context.Context) error {
	wrong, err := c.db.Integrity(ctx)
	if err != nil {
		return err
	}
	for _, w := range wrong {
		if err := c.found(true, "database", w, nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *check) manifests(ctx context.Context) error {
	return c.each(ctx, c.db.StoredManifests, &c.report.Manifests, "manifest %s@%s", c.manifest)
}

// trash looks at what is deleted and can be taken back. Which of its blobs its repository had when it was deleted, nobody knows; the
// database keeps those by foreign keys.
func (c *check) trash(ctx context.Context) error {
	return c.each(ctx, c.db.StoredTrash, &c.report.Trash, "manifest %s@%s in the trash", func(_ context.Context, m meta.StoredManifest) (string, error) {
		_, what := parse(m)
		return what, nil
	})
}

// each looks at manifests, page by page.
func (c *check) each(ctx context.Context, read func(context.Context, int64, int) ([]meta.StoredManifest, error), seen *int64, name string,
	look func(context.Context, meta.StoredManifest) (string, error)) error {
	for after := int64(0); ; {
		rows, err := read(ctx, after, 10) // each may have megabytes
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, m := range rows {
			after = m.ID
			*seen++
			what, err := look(ctx, m)
			if err != nil {
				return err
			}
			if what != "" {
				if err := c.found(true, fmt.Sprintf(name, m.Repository, m.Digest), what, nil); err != nil {
					return err
				}
			}
		}
	}
}

// parse returns what a row's body says, or what is wrong with it.
func parse(m meta.StoredManifest) (parsed *oci.Manifest, what string) {
	d, err := oci.ParseDigest(m.Digest)
	if err != nil {
		return nil, err.Error()
	}
	if got := oci.DigestBytes(d.Algorithm(), m.Body); got != d {
		return nil, fmt.Sprintf("its bytes are %s", got)
	}
	if m.Size != int64(len(m.Body)) {
		return nil, fmt.Sprintf("it has %d bytes, the database says %d", len(m.Body), m.Size)
	}
	if parsed, err = oci.ParseManifest(m.MediaType, m.Body); err != nil {
		return nil, err.Error()
	}
	return parsed, ""
}

// manifest returns what is wrong with a manifest, or "".
func (c *check) manifest(ctx context.Context, m meta.StoredManifest) (string, error) {
	parsed, what := parse(m)
	if what != "" {
		return what, nil
	}
	present, missing, err := c.db.ManifestParts(ctx, m.ID)
	if err != nil {
		return "", err
	}
	kept := make(map[string]bool, len(parsed.Blobs))
	for _, s := range slices.Concat(present, missing) {
		kept[s] = true
	}
	for _, b := range parsed.Blobs {
		if s := b.Digest.String(); !kept[s] {
			return fmt.Sprintf("nothing keeps its blob %s from being collected", s), nil
		}
	}
	return "", nil
}

func (c *check) blobs(ctx context.Context) error {
	for after := int64(0); ; {
		rows, err := c.db.StoredBlobs(ctx, after, page)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, b := range rows {
			after = b.ID
			c.report.Blobs++
			c.report.Bytes += b.Size
			what, wrong, err := c.blob(ctx, b)
			if err != nil {
				return err
			}
			if what == "" && b.Known != "" && c.opts.Deep {
				if err := c.found(false, "blob "+b.Digest, fmt.Sprintf("it is marked as %s, but its bytes are right", b.Known),
					func() error { return c.db.ClearDamage(ctx, b.ID, b.Key) }); err != nil {
					return err
				}
			}
			if what == "" && b.Known != "" && !c.opts.Deep {
				what = fmt.Sprintf("it was found %s by a scrub", b.Known)
			}
			if what == "" {
				continue
			}
			mend := func() error { return c.db.DropBlob(ctx, b.ID, b.Key, time.Now()) }
			if b.Needed {
				what += "; a manifest needs it, so push it again"
				mend = nil
				if wrong && c.opts.Repair {
					// From here on the server gives these bytes out no more, and replaces them when the right ones are pushed.
					_, err := c.db.MarkDamaged(ctx, b.ID, b.Key, meta.Rotten, what, time.Now())
					if errors.Is(err, meta.ErrNotFound) {
						continue // it is gone, or was pushed again meanwhile
					}
					if err != nil {
						return fmt.Errorf("mark blob %s: %w", b.Digest, err)
					}
					if err := c.store.Delete(ctx, b.Key); err != nil {
						return fmt.Errorf("delete the wrong bytes of blob %s: %w", b.Digest, err)
					}
				}
			}
			if err := c.found(true, "blob "+b.Digest, what, mend); err != nil {
				return err
			}
		}
	}
}

// blob returns what is wrong with a blob's bytes, or "". wrong tells that there are as many
// as there should be, but others.
func (c *check) blob(ctx context.Context, b meta.StoredBlob) (what string, wrong bool, err error) {
	size, err := c.store.Stat(ctx, b.Key)
	if errors.Is(err, blob.ErrNotFound) {
		// Beside a running server it may have been collected since the row was read.
		if again, err := c.db.StoredBlobs(ctx, b.ID-1, 1); err != nil || len(again) == 0 || again[0].ID != b.ID || again[0].Key != b.Key {
			return "", false, err
		}
		return fmt.Sprintf("its bytes (object %s) are missing", b.Key), false, nil
	}
	if err != nil {
		return "", false, err
	}
	if size != b.Size {
		return fmt.Sprintf("object %s has %d bytes, the database says %d", b.Key, size, b.Size), false, nil
	}
	if !c.opts.Deep {
		return "", false, nil
	}
	d, err := oci.ParseDigest(b.Digest)
	if err != nil {
		return err.Error(), false, nil
	}
	got, _, err := blob.HashObject(ctx, c.store, b.Key, d.Algorithm())
	if err == nil && got != d { // one wrong read is not believed
		got, _, err = blob.HashObject(ctx, c.store, b.Key, d.Algorithm())
	}
	if err != nil {
		return fmt.Sprintf("object %s cannot be read: %v", b.Key, err), false, nil
	}
	if got != d {
		return fmt.Sprintf("the bytes of object %s are %s", b.Key, got), true, nil
	}
	return "", false, nil
}

func (c *check) links(ctx context.Context) error {
	n, err := c.db.StrayLinks(ctx)
	if err != nil || n == 0 {
		return err
	}
	return c.found(false, "links", fmt.Sprintf("%d blobs of repositories are marked as needed, but no manifest needs them", n),
		func() error { return c.db.MarkStrayLinks(ctx, time.Now()) })
}

// usage compares what is kept as the usage of organizations with a count of everything. All is mended at once.
func (c *check) usage(ctx context.Context) error {
	mended := false
	return c.db.CheckUsage(ctx, func(wrong *meta.UsageError) error {
		return c.found(false, "usage", wrong.Error(), func() error {
			if mended {
				return nil
			}
			mended = true
			return c.db.RecountUsage(ctx)
		})
	})
}

func (c *check) uploads(ctx context.Context) error {
	for after := ""; ; {
		rows, err := c.db.StoredUploads(ctx, after, page)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, u := range rows {
			after = u.ID
			c.report.Uploads++
			size, err := c.store.Stat(ctx, u.Key)
			var what string
			switch {
			case errors.Is(err, blob.ErrNotFound):
				what = "its bytes are missing"
			case err != nil:
				return err
			case size < u.Size:
				what = fmt.Sprintf("it has %d bytes, the database says %d", size, u.Size)
			default:
				continue
			}
			if err := c.found(false, "upload "+u.ID, what+": its client has to begin again", func() error {
				return c.db.CancelUpload(ctx, u.Repository, u.ID, oci.SHA256, u.Account, time.Now())
			}); err != nil {
				return err
			}
		}
	}
}

// objects looks for bytes that no row speaks of.
func (c *check) objects(ctx context.Context) error {
	for info, err := range c.store.List(ctx, time.Time{}, time.Time{}) {
		if err != nil {
			return err
		}
		known, err := c.db.KnownKey(ctx, info.Key)
		if err != nil {
			return err
		}
		if known {
			continue
		}
		what := fmt.Sprintf("%d bytes that no row speaks of", info.Size)
		mend := func() error { return c.store.Delete(ctx, info.Key) }
		if hour, ok := blob.KeyHour(info.Key); !c.opts.Settled.IsZero() && (!ok || !hour.Before(c.opts.Settled)) {
			what += "; they may be part of a push"
			mend = nil
		}
		if err := c.found(false, "object "+info.Key, what, mend); err != nil {
			return err
		}
	}
	return nil
}
