package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// sourceSets is how many sets a Source looks into at most, the newest ones.
const sourceSets = 3

// Source gives the bytes of blobs that a backup has. It opens the backup when it is first asked, and keeps what it needs to find blobs until it
// is closed. It is used by one goroutine at a time.
type Source struct {
	name string
	temp string
	open func(context.Context) (blob.Store, error)

	target blob.Store // nil before the backup is opened
	dir    string
	remove func() error
	sets   []Set      // that have not been fetched, the newest first
	found  []*meta.DB // of those that have
}

// NewSource returns the backup in the store that open returns, which is closed with the Source if it has a method Close. Databases of sets are kept in the folder temp; empty
// stands for the system's.
func NewSource(name, temp string, open func(context.Context) (blob.Store, error)) *Source {
	return &Source{name: name, temp: temp, open: open}
}

// String names the backup.
func (s *Source) String() string { return "the backup " + s.name }

// Open returns the bytes of a blob as the newest set has them that has the blob, or an error that wraps blob.ErrNotFound. They may be damaged.
func (s *Source) Open(ctx context.Context, _ []oci.Repository, d oci.Digest, size int64) (io.ReadCloser, error) {
	if err := s.begin(ctx); err != nil {
		return nil, fmt.Errorf("open the backup: %w", err)
	}
	for i := 0; ; i++ {
		if i == len(s.found) {
			if more, err := s.fetch(ctx); err != nil || !more {
				return nil, errors.Join(fmt.Errorf("no set of the backup has the blob: %w", blob.ErrNotFound), err)
			}
		}
		b, err := s.found[i].FindBlob(ctx, d.String())
		if errors.Is(err, meta.ErrNotFound) || err == nil && b.Size != size {
			continue
		}
		if err != nil {
			return nil, err
		}
		r, err := s.target.Open(ctx, b.Key)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, blob.ErrNotFound) {
			return nil, err
		}
	}
}

// begin opens the backup.
func (s *Source) begin(ctx context.Context) error {
	if s.target != nil {
		return nil
	}
	target, err := s.open(ctx)
	if err != nil {
		return err
	}
	s.target = target
	sets, err := Sets(ctx, target)
	if err == nil {
		slices.Reverse(sets)
		s.sets = sets[:min(len(sets), sourceSets)]
		s.dir, s.remove, err = MakeTemp(s.temp)
	}
	if err != nil {
		err = errors.Join(err, s.Close())
	}
	return err
}

// fetch opens the database of the next set that is of use. It returns false if there is none.
func (s *Source) fetch(ctx context.Context) (bool, error) {
	var damaged error
	for len(s.sets) > 0 {
		db, err := s.sets[0].Fetch(ctx, s.target, s.dir)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return false, err
		}
		s.sets = s.sets[1:]
		if err == nil {
			s.found = append(s.found, db)
			return true, nil
		}
		damaged = errors.Join(damaged, err)
	}
	return false, damaged
}

// Close gives everything back. The Source may be asked again afterwards.
func (s *Source) Close() (err error) {
	for _, db := range s.found {
		err = errors.Join(err, db.Close())
	}
	if s.remove != nil {
		err = errors.Join(err, s.remove())
	}
	if c, ok := s.target.(interface{ Close() }); ok {
		c.Close()
	}
	s.target, s.dir, s.remove, s.sets, s.found = nil, "", nil, nil, nil
	return err
}
