package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/blob"
)

const (
	// listPage is how many entries of a listing are in memory at a time.
	listPage = 1000

	// tailMark is between the name of an upload's object and those of the segments of its tail.
	tailMark = ".tail."

	// forgotten is the age from which an unfinished upload is hardly one that somebody is at.
	forgotten = 24 * time.Hour

	// deletes is how many objects of one key are removed at a time.
	deletes = 8
)

func segmentName(name, segment string) string { return name + tailMark + segment }

// newSegment returns the name of a segment that nobody has seen before.
func newSegment() string { return rand.Text()[:16] }

func isSegment(name string) bool {
	return len(name) == 16 && !strings.ContainsFunc(name, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '2' || r > '7') })
}

// entry is one thing that is listed.
type entry struct {
	name    string
	size    int64
	started time.Time // of an upload
	upload  string    // its id
}

// objects yields the objects whose names begin with prefix and come after a name, in order.
func (s *Store) objects(ctx context.Context, prefix, after string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for {
			var page []entry
			// A page that failed is asked for again, from its first name.
			err := s.do(ctx, "list objects", prefix+"*", func(ctx context.Context, progress func(int)) error {
				page = page[:0]
				opts := minio.ListObjectsOptions{Prefix: prefix, Recursive: true, StartAfter: after, MaxKeys: listPage}
				for o := range s.client.ListObjectsIter(ctx, s.bucket, opts) {
					if o.Err != nil {
						return o.Err
					}
					progress(1)
					if page = append(page, entry{name: o.Key, size: o.Size}); len(page) == listPage {
						break
					}
				}
				return ctx.Err()
			})
			if err != nil {
				yield(entry{}, err)
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if len(page) < listPage {
				return
			}
			after = page[len(page)-1].name
		}
	}
}

// uploads yields the unfinished multipart uploads whose names begin with prefix and come after a name, in
// order. Where those of one name do not fit on a page, it goes on with the next name: not every store
// can be asked for the rest.
func (s *Store) uploads(ctx context.Context, prefix, after string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for {
			var page minio.ListMultipartUploadsResult
			err := s.do(ctx, "list uploads", prefix+"*", func(ctx context.Context, _ func(int)) (err error) {
				page, err = s.client.ListMultipartUploads(ctx, s.bucket, prefix, after, "", "", listPage)
				return err
			})
			if err != nil {
				yield(entry{}, err)
				return
			}
			// MinIO answers for no prefix with all of them on one page, in the order of their beginning.
			slices.SortStableFunc(page.Uploads, func(a, b minio.ObjectMultipartInfo) int { return strings.Compare(a.Key, b.Key) })
			for _, u := range page.Uploads {
				if u.Key <= after {
					continue
				}
				if !yield(entry{name: u.Key, upload: u.UploadID, started: u.Initiated}, nil) {
					return
				}
			}
			if !page.IsTruncated || len(page.Uploads) == 0 {
				return
			}
			after = page.Uploads[len(page.Uploads)-1].Key
		}
	}
}

// List implements blob.Store: objects, unfinished multipart uploads and what else belongs to an upload, each
// key once. The size of an upload is that of what the store tells without being asked for each, maybe 0.
func (s *Store) List(ctx context.Context, from, to time.Time) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		if err := s.list(ctx, from, to, yield); err != nil {
			yield(blob.Info{}, fmt.Errorf("list objects: %w", err))
		}
	}
}

func (s *Store) list(ctx context.Context, from, to time.Time, yield func(blob.Info, error) bool) error {
	first, end := hourText(from), "9999"
	if !to.IsZero() {
		end = hourText(to)
	}
	if first >= end {
		return ctx.Err()
	}
	// What all the hours have in common, so that as little as possible is listed.
	common := 0
	for common < len(first) && common < len(end) && first[common] == end[common] {
		common++
	}
	prefix, after := s.opts.Prefix+first[:common], s.opts.Prefix+first
	var keys [2]keyIterator
	for i, all := range []iter.Seq2[entry, error]{s.objects(ctx, prefix, after), s.uploads(ctx, prefix, after)} {
		next, stop := iter.Pull2(all)
		defer stop()
		keys[i] = keyIterator{next: next, prefix: s.opts.Prefix, end: end}
		if err := keys[i].advance(); err != nil {
			return err
		}
	}
	for keys[0].info.Key != "" || keys[1].info.Key != "" {
		of := &keys[0]
		if of.info.Key == "" || keys[1].info.Key != "" && keys[1].info.Key < of.info.Key {
			of = &keys[1]
		} else if keys[1].info.Key == of.info.Key {
			if err := keys[1].advance(); err != nil {
				return err
			}
		}
		if !yield(of.info, nil) {
			return nil
		}
		if err := of.advance(); err != nil {
			return err
		}
	}
	return nil
}

// hourText returns the hour of t as keys have it.
func hourText(t time.Time) string {
	t = t.UTC()
	switch {
	case t.Year() < 1:
		return "0000"
	case t.Year() > 9999:
		return "9999"
	}
	return t.Format(blob.HourLayout)
}

// keyIterator gives each key of a listing once.
type keyIterator struct {
	next        func() (entry, error, bool)
	prefix, end string

	info  blob.Info // Key is empty at the end
	ahead blob.Info // the first entry of the next key
	done  bool
}

// advance goes to the next key.
func (k *keyIterator) advance() error {
	k.info, k.ahead = k.ahead, blob.Info{}
	for !k.done {
		e, err, ok := k.next()
		if err != nil {
			return err
		}
		name, own := strings.CutPrefix(e.name, k.prefix)
		if !ok || own && name >= k.end {
			k.done = true
			return nil
		}
		key, _, _ := strings.Cut(name, tailMark)
		if _, made := blob.KeyHour(key); !made {
			continue // not by a store
		}
		switch {
		case k.info.Key == "":
			k.info = blob.Info{Key: key, Size: e.size}
		case k.info.Key == key:
			k.info.Size += e.size * boolSize(key != name)
		default:
			k.ahead = blob.Info{Key: key, Size: e.size}
			return nil
		}
	}
	return nil
}

func boolSize(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// Delete implements blob.Store: the object, unfinished uploads of its name, and their tails. Of a key that no
// store has made there is the object only.
func (s *Store) Delete(ctx context.Context, key string) error {
	name, err := s.object(key)
	if err == nil {
		err = s.delete(ctx, key, name)
	}
	if err != nil {
		return fmt.Errorf("delete object %s: %w", key, err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, key, name string) error {
	group, ctx := errgroup.WithContext(ctx)
	if _, made := blob.KeyHour(key); made {
		group.Go(func() error { return s.removeTails(ctx, name) })
		// First the uploads: whoever completes one meanwhile must not make the object come back.
		if err := s.removeUploads(ctx, name, ""); err != nil {
			return errors.Join(err, group.Wait())
		}
	}
	group.Go(func() error { return s.remove(ctx, name) })
	return group.Wait()
}

// remove deletes one object. A missing one is no error.
func (s *Store) remove(ctx context.Context, name string) error {
	err := s.do(ctx, "delete object", name, func(ctx context.Context, _ func(int)) error {
		return s.client.RemoveObject(ctx, s.bucket, name, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, blob.ErrNotFound) {
		return nil
	}
	return err
}

// removeUploads aborts the unfinished multipart uploads of a name, but not the one with the id except.
func (s *Store) removeUploads(ctx context.Context, name, except string) error {
	for u, err := range s.uploads(ctx, name, "") {
		if err != nil {
			return err
		}
		if u.name != name || u.upload == except {
			continue
		}
		err := s.do(ctx, "abort upload", name, func(ctx context.Context, _ func(int)) error {
			return s.client.AbortMultipartUpload(ctx, s.bucket, name, u.upload)
		})
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return err
		}
	}
	return nil
}

// removeTails deletes the segments of the tails of a name.
func (s *Store) removeTails(ctx context.Context, name string) error {
	for o, err := range s.objects(ctx, name+tailMark, "") {
		if err != nil {
			return err
		}
		if err := s.remove(ctx, o.name); err != nil {
			return err
		}
	}
	return nil
}

// removeSegments deletes segments, as far as it can.
func (s *Store) removeSegments(ctx context.Context, name string, segments []string) {
	var group errgroup.Group
	group.SetLimit(deletes)
	for _, g := range segments {
		group.Go(func() error { return s.remove(ctx, segmentName(name, g)) })
	}
	_ = group.Wait() // Delete is sure to
}

// statUpload returns how many bytes the unfinished multipart upload of a name has, if there is one: of several, the
// one that has most.
func (s *Store) statUpload(ctx context.Context, name string) (size int64, found bool, err error) {
	for u, err := range s.uploads(ctx, name, "") {
		if err != nil {
			return 0, false, err
		}
		if u.name != name {
			continue
		}
		n, err := s.uploadSize(ctx, name, u.upload)
		if errors.Is(err, blob.ErrNotFound) {
			continue // ended meanwhile
		}
		if err != nil {
			return 0, false, err
		}
		size, found = max(size, n), true
	}
	if !found {
		return 0, false, nil
	}
	// A tail may be a part as well: what is too much does not matter to who asks for how much is left.
	for o, err := range s.objects(ctx, name+tailMark, "") {
		if err != nil {
			return 0, false, err
		}
		size += o.size
	}
	return size, true, nil
}

// uploadSize adds up the parts of a multipart upload.
func (s *Store) uploadSize(ctx context.Context, name, id string) (size int64, err error) {
	for marker := 0; ; {
		var page minio.ListObjectPartsResult
		err := s.do(ctx, "list parts", name, func(ctx context.Context, _ func(int)) (err error) {
			page, err = s.client.ListObjectParts(ctx, s.bucket, name, id, marker, listPage)
			return err
		})
		if err != nil {
			return 0, err
		}
		for _, p := range page.ObjectParts {
			size += p.Size
		}
		if !page.IsTruncated || page.NextPartNumberMarker <= marker {
			return size, nil
		}
		marker = page.NextPartNumberMarker
	}
}

// Unfinished counts the unfinished multipart uploads below the prefix that were begun more than a day ago. It
// lists all of them: once in a while is often enough.
func (s *Store) Unfinished(ctx context.Context) (n int64, err error) {
	before := s.now().Add(-forgotten)
	for u, err := range s.uploads(ctx, s.opts.Prefix, "") {
		if err != nil {
			return 0, fmt.Errorf("count unfinished uploads: %w", err)
		}
		if u.started.Before(before) {
			n++
		}
	}
	return n, nil
}
