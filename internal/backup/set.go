// Package backup makes copies of a registry while it is in use, and restores them.
//
// A backup is kept in a store of its own, a folder or a bucket, with bytes as objects like those of any registry, and for each set a
// document that names the object with the database: a file of SQLite whose rows are of one moment, and whose blobs have the keys of
// the backup's objects. So a set is a registry of its own, and a restore is a move of it.
//
// What holds true: a set is named when everything in it is durable and was verified while it was copied. An object is copied once, however many
// sets have it. What a run that broke off has copied is noted, and the next run goes on with it. Only prune deletes anything, and nothing that a
// set has. The collector of the registry deletes no bytes while a backup runs: whoever makes one has the lease on the job of that name, and
// stops when it is lost. Memory does not grow with the registry; disk does, by twice the database.
package backup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Errors of this package.
var (
	// ErrNoSet: the backup has no set that is asked for.
	ErrNoSet = errors.New("there is no such set in the backup")
	// ErrDamaged: what a set has is missing or wrong.
	ErrDamaged = errors.New("the backup is damaged")
)

// Set is one complete copy of a registry.
type Set struct {
	Name        string    `json:"name"`
	At          time.Time `json:"at"` // the moment that it shows
	Blobs       int64     `json:"blobs"`
	Bytes       int64     `json:"bytes"`  // of the blobs
	Copied      int64     `json:"copied"` // blobs that no earlier set had
	CopiedBytes int64     `json:"copied_bytes"`
	Lost        int64     `json:"lost"` // blobs whose bytes the registry had lost; manifests wait for them
	Database    Object    `json:"database"`
}

// Object is an object of the backup's store.
type Object struct {
	Key    string     `json:"key"`
	Digest oci.Digest `json:"digest"`
	Size   int64      `json:"size"` // bytes
}

const (
	setRoot     = "sets/"
	pendingRoot = "pending/"
	extension   = ".json"
)

func newName(at time.Time) string {
	return at.UTC().Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:4])
}

// Sets returns the sets of a backup, oldest first.
func Sets(ctx context.Context, target blob.Store) (sets []Set, err error) {
	for d, err := range target.Documents(ctx, setRoot) {
		if err != nil {
			return nil, err
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(d.Name, setRoot), extension)
		if !ok {
			continue
		}
		data, err := target.Document(ctx, d.Name)
		if errors.Is(err, blob.ErrNotFound) {
			continue // pruned meanwhile
		}
		if err != nil {
			return nil, err
		}
		s := Set{}
		if err := json.Unmarshal(data, &s); err != nil || s.Name != name || s.Database.Key == "" || s.Database.Size < 0 {
			return nil, fmt.Errorf("%w: %s does not describe a set: %w", ErrDamaged, d.Name, cmp.Or(err, errors.New("it names no database")))
		}
		sets = append(sets, s)
	}
	slices.SortFunc(sets, func(a, b Set) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return sets, nil
}

// Find returns the set of a name, or the newest one that is not after a time, if that is not zero, or the newest one. It fails with ErrNoSet.
func Find(ctx context.Context, target blob.Store, name string, at time.Time) (Set, error) {
	sets, err := Sets(ctx, target)
	if err != nil {
		return Set{}, err
	}
	for _, s := range slices.Backward(sets) {
		if name != "" && s.Name == name || name == "" && (at.IsZero() || !s.At.After(at)) {
			return s, nil
		}
	}
	return Set{}, ErrNoSet
}

// Fetch copies the database of a set into a folder, verifies it, and opens it. The caller closes it.
func (s Set) Fetch(ctx context.Context, target blob.Store, dir string) (*meta.DB, error) {
	db, err := s.fetch(ctx, target, filepath.Join(dir, s.Name+".db"))
	if err != nil {
		return nil, fmt.Errorf("fetch the database of set %s: %w", s.Name, err)
	}
	return db, nil
}

func (s Set) fetch(ctx context.Context, target blob.Store, file string) (_ *meta.DB, err error) {
	r, err := target.Open(ctx, s.Database.Key)
	if errors.Is(err, blob.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file) // so that it can be fetched again
		}
	}()
	hash := s.Database.Digest.Algorithm().New()
	n, err := io.Copy(io.MultiWriter(f, hash), r)
	if err := errors.Join(err, f.Close(), ctx.Err()); err != nil {
		return nil, err
	}
	if got := oci.DigestOf(s.Database.Digest.Algorithm(), hash); got != s.Database.Digest || n != s.Database.Size {
		return nil, fmt.Errorf("%w: the %d bytes of object %s are %s", ErrDamaged, n, s.Database.Key, got)
	}
	// For writing: it may be of an older Berth.
	return meta.Open(ctx, file, meta.Options{})
}

// note stores a pending document: objects that no set has yet.
func note(ctx context.Context, target blob.Store, blobs []meta.MovingBlob) error {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(blobs); err != nil {
		return err
	}
	return target.PutDocument(ctx, pendingRoot+rand.Text()+extension, b.Bytes())
}

// eachPending calls f for the content of pending documents. One that is damaged is passed over: what it told of is copied again.
func eachPending(ctx context.Context, target blob.Store, f func([]meta.MovingBlob) error) error {
	for d, err := range target.Documents(ctx, pendingRoot) {
		if err != nil {
			return err
		}
		data, err := target.Document(ctx, d.Name)
		if errors.Is(err, blob.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		var blobs []meta.MovingBlob
		if json.Unmarshal(data, &blobs) != nil {
			continue
		}
		if err := f(blobs); err != nil {
			return err
		}
	}
	return nil
}
