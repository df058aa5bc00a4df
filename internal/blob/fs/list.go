package fs

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// listBatch is how many entries of a folder are held in memory at a time.
const listBatch = 1024

// List implements blob.Store. It yields what is in the folders of the hours; adopted
// files, whose keys have another form, are not listed. Objects that are
// created or deleted meanwhile may or may not be listed.
func (s *Store) List(ctx context.Context, from, to time.Time) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		err := s.list(ctx, from.Truncate(time.Hour), to.Truncate(time.Hour), func(info blob.Info) bool { return yield(info, nil) })
		if err != nil && !errors.Is(err, errStop) {
			yield(blob.Info{}, wrap("list objects in", s.dir, err))
		}
	}
}

// errStop says that the loop over a listing was left.
var errStop = errors.New("stop")

func (s *Store) list(ctx context.Context, from, to time.Time, yield func(blob.Info) bool) error {
	return eachEntry(ctx, s.dir, func(day os.DirEntry) error {
		begin, ok := hourOf(day.Name() + "/00")
		if !ok || !day.IsDir() || begin.Add(24*time.Hour).Compare(from) <= 0 || !to.IsZero() && !begin.Before(to) {
			return nil
		}
		return eachEntryIfAny(ctx, filepath.Join(s.dir, day.Name()), func(hour os.DirEntry) error {
			folder := day.Name() + "/" + hour.Name()
			begin, ok := hourOf(folder)
			if !ok || !hour.IsDir() || begin.Before(from) || !to.IsZero() && !begin.Before(to) {
				return nil
			}
			return s.listHour(ctx, folder, yield)
		})
	})
}

func (s *Store) listHour(ctx context.Context, folder string, yield func(blob.Info) bool) error {
	return eachEntryIfAny(ctx, filepath.Join(s.dir, filepath.FromSlash(folder)), func(file os.DirEntry) error {
		if !file.Type().IsRegular() {
			return nil
		}
		info, err := file.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if !yield(blob.Info{Key: folder + "/" + file.Name(), Size: info.Size()}) {
			return errStop
		}
		return nil
	})
}

// eachEntryIfAny is eachEntry, but a folder that was removed meanwhile has no entries.
func eachEntryIfAny(ctx context.Context, dir string, visit func(os.DirEntry) error) error {
	if err := eachEntry(ctx, dir, visit); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// eachEntry calls visit for the entries of a folder until one fails.
func eachEntry(ctx context.Context, dir string, visit func(os.DirEntry) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		entries, err := d.ReadDir(listBatch)
		for _, e := range entries {
			if err := visit(e); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
