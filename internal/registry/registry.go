// Package registry is the domain: push, pull, mount, tag, delete, referrers.
//
// What holds true: content is acknowledged only when it is verified and durable, bytes
// in the blob store first, then one transaction in meta; bytes of a manifest are never
// altered; every failure that a client caused is an *oci.Error that says what to do, and Explain
// tells what a client should hear of the others.
// Changes to repositories, tags and manifests go through here only, the collector's deletes aside.
package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// Sparse says which parts of a manifest may be missing when it is pushed
// (spec.md#push). Foreign layers and subjects may always be.
type Sparse string

// The settings of sparse content.
const (
	SparseNone  Sparse = "none"  // nothing else
	SparseIndex Sparse = "index" // children of an index
	SparseAll   Sparse = "all"   // children, configs and layers
)

// Options configure a Registry.
type Options struct {
	// Sparse tells the setting of a repository.
	Sparse func(oci.Repository) Sparse
	// Delete allows clients to delete tags, manifests and blobs.
	Delete bool
	// Grace is how long an unreferenced blob is kept at least after it was pushed or asked for.
	Grace time.Duration
	// UploadExpiry is how long an upload session lives without being used.
	UploadExpiry time.Duration
	// Trash keeps what is deleted, until the collector empties the trash.
	Trash bool
	// ReadOnly promises that nothing will be pushed or deleted. The database may be open for reading only.
	ReadOnly bool
	// Quota, if not nil, hears of quotas.
	Quota QuotaObserver
}

// Actor is who makes a change, for the tag log, the trash and the audit log.
type Actor struct {
	Name       string // of an account, or the network address of who did not sign in
	Account    int64  // 0 for who did not sign in
	Credential string
	Client     string
	Audit      bool // the change has an entry in the audit log
}

// Registry serves one registry's content. It may be used concurrently.
type Registry struct {
	db    *meta.DB
	store blob.Store
	opts  Options
	key   []byte // signs upload sessions, and conceals places in lists

	mu     sync.Mutex
	active map[string]*receiving // by upload ID, in this process

	// ended has the IDs of the sessions that became a blob last. Of others, and after a restart, a session that
	// has ended and one that has not begun look the same; nothing rests on the difference.
	ended *lru.Cache[string, struct{}]
}

// origin is what the logs say of a change by somebody.
func (g *Registry) origin(a Actor, method string) meta.Origin {
	return meta.Origin{Actor: a.Name, Credential: a.Credential, Method: method, Trash: g.opts.Trash, Audit: a.Audit, AccountID: a.Account, Client: a.Client}
}

const (
	rememberEnded = 4096
	uploadKey     = "upload_key" // a setting
)

// New returns the registry over db and store. The store may be nil where nobody pushes or pulls, but tags and manifests are restored or deleted.
func New(ctx context.Context, db *meta.DB, store blob.Store, opts Options) (*Registry, error) {
	key := make([]byte, 32)
	rand.Read(key)
	if store != nil {
		kept, err := db.Setting(ctx, uploadKey)
		if errors.Is(err, meta.ErrNotFound) {
			if kept, err = key, nil; !opts.ReadOnly {
				kept, err = db.SettingOr(ctx, uploadKey, key)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read the key of upload sessions: %w", err)
		}
		key = kept
	}
	ended, err := lru.New[string, struct{}](rememberEnded)
	if err != nil {
		return nil, err
	}
	return &Registry{db: db, store: store, opts: opts, key: key, active: make(map[string]*receiving), ended: ended}, nil
}

// Explain tells a client what it should hear of a failure of the storage, a quota, or a policy that forbids a change, or nil if that is nothing.
func Explain(err error) *oci.Error {
	freeze, frozen := errors.AsType[*policy.FrozenError](err)
	held, protected := errors.AsType[*policy.ProtectedError](err)
	quota, exceeded := errors.AsType[*meta.QuotaError](err)
	switch {
	case frozen:
		return oci.Errorf(oci.CodeDenied, "%v", freeze)
	case protected:
		return oci.Errorf(oci.CodeDenied, "%v", held)
	case exceeded:
		return quotaExceeded(quota)
	case errors.Is(err, blob.ErrNoSpace) || meta.IsFull(err):
		return oci.Errorf(oci.CodeUnknown, "the registry's storage is full: nothing can be pushed until the operator makes room; pulls go on").
			WithStatus(http.StatusInsufficientStorage)
	case errors.Is(err, meta.ErrUnavailable):
		return oci.Errorf(oci.CodeUnknown, "the registry cannot reach its database at this moment: try again").WithStatus(http.StatusServiceUnavailable)
	case errors.Is(err, blob.ErrUnavailable):
		return oci.Errorf(oci.CodeUnknown, "the registry cannot reach its storage at this moment: try again").WithStatus(http.StatusServiceUnavailable)
	}
	return nil
}

// CheckChange fails if content of the repository is read-only, so that a client learns of it before a long upload.
func (g *Registry) CheckChange(ctx context.Context, r oci.Repository) error {
	return g.db.CheckChange(ctx, r)
}

var errDeleteOff = oci.Errorf(oci.CodeUnsupported, "deleting is switched off on this registry")

// Blob returns a blob that the repository has, for a pull. One whose bytes are known to be damaged is as good as none: clients that look
// before they push send it again, and those that pull may have another source.
func (g *Registry) Blob(ctx context.Context, r oci.Repository, d oci.Digest) (*meta.Blob, error) {
	b, err := g.db.Blob(ctx, r, d)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, blobUnknown(r, d)
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s@%s: %w", r, d, err)
	}
	if b.Damaged {
		return nil, oci.Errorf(oci.CodeBlobUnknown, "the stored bytes of blob %s are damaged and not given out: push it to %s again, or tell the operator", d, r)
	}
	return b, nil
}

// intact tells whether an object has the bytes that it should have, by their count. Of an
// object that cannot be looked at nothing bad is assumed.
func (g *Registry) intact(ctx context.Context, key string, size int64) bool {
	has, err := g.store.Stat(ctx, key)
	return err == nil && has == size || err != nil && !errors.Is(err, blob.ErrNotFound)
}

// CheckBlob returns a blob for a client that may rely on its being there: who
// asks before a push gets time to name it in a manifest, and is asked to push
// again what has been lost.
func (g *Registry) CheckBlob(ctx context.Context, r oci.Repository, d oci.Digest) (*meta.Blob, error) {
	b, err := g.Blob(ctx, r, d)
	if err != nil {
		return nil, err
	}
	if !g.intact(ctx, b.Key, b.Size) {
		return nil, blobUnknown(r, d)
	}
	// Asking seldom writes: the collector waits a quarter of the grace period longer.
	if !g.opts.ReadOnly && !b.UnreferencedSince.IsZero() && time.Since(b.UnreferencedSince) > g.opts.Grace/4 {
		err := g.db.TouchBlob(ctx, r, d, time.Now())
		if errors.Is(err, meta.ErrNotFound) {
			return nil, blobUnknown(r, d)
		}
		if err != nil {
			return nil, fmt.Errorf("touch blob %s@%s: %w", r, d, err)
		}
	}
	return b, nil
}

// OpenBlob opens a blob's bytes. It fails if they are not as many as they should be.
func (g *Registry) OpenBlob(ctx context.Context, r oci.Repository, b *meta.Blob) (blob.Reader, error) {
	return g.OpenBlobRange(ctx, r, b, 0, b.Size)
}

// OpenBlobRange is OpenBlob for who begins with the n bytes from offset on, which the blob must have. The Reader may be anywhere.
func (g *Registry) OpenBlobRange(ctx context.Context, r oci.Repository, b *meta.Blob, offset, n int64) (blob.Reader, error) {
	store, ok := g.store.(blob.RangeOpener)
	var rd blob.Reader
	var err error
	if ok && n < b.Size {
		rd, err = store.OpenRange(ctx, b.Key, offset, n)
	} else {
		rd, err = g.store.Open(ctx, b.Key)
	}
	if errors.Is(err, blob.ErrNotFound) {
		// The bytes go after the row: a blob deleted since it was looked up is simply not there.
		if _, again := g.Blob(ctx, r, b.Digest); again != nil {
			return nil, again
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open blob %s@%s: %w", r, b.Digest, err)
	}
	if rd.Size() != b.Size {
		rd.Close()
		return nil, fmt.Errorf("open blob %s@%s: object %s has %d bytes, not %d", r, b.Digest, b.Key, rd.Size(), b.Size)
	}
	return rd, nil
}

// BlobURL returns an address from which a client can GET a blob's bytes for the time given, or "" if the
// store has none.
func (g *Registry) BlobURL(ctx context.Context, b *meta.Blob, expire time.Duration) (string, error) {
	store, ok := g.store.(blob.Redirector)
	if !ok {
		return "", nil
	}
	url, err := store.URL(ctx, b.Key, expire)
	if err != nil {
		return "", fmt.Errorf("sign the address of blob %s: %w", b.Digest, err)
	}
	return url, nil
}

// DeleteBlob takes a blob from a repository (spec.md#deleting-blobs).
func (g *Registry) DeleteBlob(ctx context.Context, r oci.Repository, d oci.Digest, by Actor) error {
	if !g.opts.Delete {
		return errDeleteOff
	}
	err := g.db.DeleteBlob(ctx, r, d, g.origin(by, "delete"), time.Now())
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return blobUnknown(r, d)
	case errors.Is(err, meta.ErrReferenced):
		return oci.Errorf(oci.CodeUnsupported, "blob %s is needed by a manifest of %s, or by one in its trash: delete the manifest first, and empty the trash", d, r)
	case err != nil:
		return fmt.Errorf("delete blob %s@%s: %w", r, d, err)
	}
	return nil
}

// MountBlob gives repository into a blob that from has, or that any repository
// has if from is empty (spec.md#mounting-a-blob-from-another-repository). It returns false if there is none.
func (g *Registry) MountBlob(ctx context.Context, into, from oci.Repository, d oci.Digest) (bool, error) {
	err := g.db.MountBlob(ctx, into, from, d, time.Now())
	if errors.Is(err, meta.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mount %s@%s: %w", into, d, g.refused(err))
	}
	return true, nil
}

// Tags returns up to n tags after the given one, in ASCII order.
func (g *Registry) Tags(ctx context.Context, r oci.Repository, after string, n int) ([]string, error) {
	tags, err := g.db.Tags(ctx, r, after, n)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, NameUnknown(r)
	}
	if err != nil {
		return nil, fmt.Errorf("tags of %s: %w", r, err)
	}
	return tags, nil
}

// Repositories returns up to n names of repositories after the given one, in ASCII order.
func (g *Registry) Repositories(ctx context.Context, after string, n int) ([]string, error) {
	names, err := g.db.Repositories(ctx, after, n)
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	return names, nil
}

// Visible returns up to n names after the given one of repositories that a viewer may pull from, and whose name contains term, and the
// place to go on from, empty if there are no more. There may be fewer names and more to come.
func (g *Registry) Visible(ctx context.Context, v meta.Viewer, term, after string, n int) (names []string, next string, err error) {
	if after, err = g.Reveal(after); err != nil {
		return nil, "", err
	}
	names, next, err = g.db.ReadableRepositories(ctx, v, term, after, n)
	if err != nil {
		return nil, "", fmt.Errorf("list repositories: %w", err)
	}
	return names, g.conceal(next, names), nil
}

// Search returns up to n names of repositories that contain term.
func (g *Registry) Search(ctx context.Context, term string, n int) ([]string, error) {
	names, err := g.db.SearchRepositories(ctx, term, "", n)
	if err != nil {
		return nil, fmt.Errorf("search repositories: %w", err)
	}
	return names, nil
}

func blobUnknown(r oci.Repository, d oci.Digest) error {
	return oci.Errorf(oci.CodeBlobUnknown, "repository %s has no blob %s", r, d)
}

// NameUnknown is the answer to who asks for a repository that does not exist, or not for them.
func NameUnknown(r oci.Repository) error {
	return oci.Errorf(oci.CodeNameUnknown, "there is no repository %s", r)
}
