// Package scrub reads every blob that is stored, again and again, and finds those whose bytes are not what they should be any more.
//
// What holds true: a blob is said to be rotten only when two reads in a row have given bytes of another digest; a storage that cannot be
// reached, or a read that fails, is no rot; what is found is noted at once, in a row that every lookup of the blob sees; how far a pass is, is
// noted every few seconds, so that any process goes on with it; a damaged blob is mended only with bytes whose digest was
// verified, and only if its row still names the broken object.
package scrub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Job is the name of the job that scrubs.
const Job = "scrub"

// Mender is a source of the bytes of blobs, such as another registry.
type Mender interface {
	// Open returns the bytes of a blob that these repositories have here, or an error that wraps blob.ErrNotFound if the source lacks it. The bytes need not be
	// right: the caller verifies them.
	Open(ctx context.Context, repositories []oci.Repository, d oci.Digest, size int64) (io.ReadCloser, error)
	// String names the source, for people.
	String() string
	// Close gives back what the source keeps between blobs. It is called when a pass ends or breaks off; the source may be asked again afterwards.
	Close() error
}

// Options configure a Scrubber.
type Options struct {
	Log *slog.Logger
	// Rate is how many bytes to read in a second at most; 0 for no limit.
	Rate int64
	// Audit tells to write what is found and mended to the audit log.
	Audit bool
	// Menders are asked for the bytes of damaged blobs, one after the other until one has them.
	Menders []Mender
	// Observe, if not nil, is told of each blob that was read.
	Observe func(bytes int64)
	// Retry is how long to wait until what could not be reached or read is tried again; 0 stands for ten seconds.
	Retry time.Duration
	// Checkpoint is how often it is noted how far a pass is; 0 stands for three seconds.
	Checkpoint time.Duration
}

// Scrubber verifies blobs, in one pass at a time. Two that run at the same time do each other no harm.
type Scrubber struct {
	db    *meta.DB
	store blob.Store
	paced blob.Store
	opts  Options
	whole string // the object that was found to be right last
}

// New returns a Scrubber.
func New(db *meta.DB, store blob.Store, opts Options) *Scrubber {
	s := &Scrubber{db: db, store: store, paced: store, opts: opts}
	if s.opts.Retry == 0 {
		s.opts.Retry = 10 * time.Second
	}
	if s.opts.Checkpoint == 0 {
		s.opts.Checkpoint = 3 * time.Second
	}
	if opts.Rate > 0 {
		s.paced = &pacedStore{store, rate.NewLimiter(rate.Limit(opts.Rate), int(min(opts.Rate, 1<<20)))}
	}
	return s
}

// Pass is one reading of everything.
type Pass struct {
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended,omitzero"`
	After      int64     `json:"after"` // the ID of the blob that was read last
	Until      int64     `json:"until"` // the ID of the last blob that was there when it began: later ones are hashed when they come
	Noted      int64     `json:"noted"` // up to this one it is noted when they were read
	Blobs      int64     `json:"blobs"`
	Bytes      int64     `json:"bytes"`
	Damaged    int64     `json:"damaged"`    // that were found rotten or missing
	Unreadable int64     `json:"unreadable"` // that could not be read
	Mended     int64     `json:"mended"`
}

// State is how far scrubbing is, as the row of the job has it.
type State struct {
	// Pass is the one under way, if there is one.
	Pass *Pass `json:"pass,omitempty"`
	// Last is the last one that has ended, if there is one.
	Last *Pass `json:"last,omitempty"`
}

// StateOf returns what a job's row says.
func StateOf(j meta.Job) (State, error) {
	var s State
	if j.State == "" {
		return s, nil
	}
	err := json.Unmarshal([]byte(j.State), &s)
	return s, err
}

const (
	page = 100
	// stretch is after how many checkpoints it is noted when blobs were read, which is a row for good.
	stretch = 20
)

// Run makes a pass as a periodic job, or goes on with one that was not ended. Blobs that are known to be damaged come first.
func (s *Scrubber) Run(ctx context.Context) (result string, err error) {
	j, err := s.db.Job(ctx, Job)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return "", err
	}
	state, err := StateOf(j)
	if err != nil {
		s.opts.Log.Warn("how far the scrub was cannot be read: it begins anew", "error", err)
		state = State{}
	}
	if state.Pass == nil {
		last, err := patiently(ctx, s, func() (int64, error) { return s.db.LastBlob(ctx) })
		if err != nil {
			return "", err
		}
		state.Pass = &Pass{Began: time.Now(), Until: last}
	}
	p := state.Pass
	defer func() {
		for _, from := range s.opts.Menders {
			if err := from.Close(); err != nil {
				s.opts.Log.Warn("what a scrub has used cannot be given back", "from", from.String(), "error", err)
			}
		}
	}()
	if err := s.again(ctx, p); err != nil {
		return "", err
	}
	saved, verified := time.Now(), time.Now()
	note := func() error {
		if p.Noted != p.After && (!p.Ended.IsZero() || time.Since(verified) >= stretch*s.opts.Checkpoint) {
			if err := s.db.NoteVerified(ctx, p.Noted, p.After, time.Now()); err != nil {
				return err
			}
			p.Noted, verified = p.After, time.Now()
		}
		saved = time.Now()
		return s.save(ctx, j.Holder, state)
	}
	for {
		blobs, err := patiently(ctx, s, func() ([]meta.StoredBlob, error) { return s.db.StoredBlobs(ctx, p.After, page) })
		if err != nil {
			return "", err
		}
		if i := slices.IndexFunc(blobs, func(b meta.StoredBlob) bool { return b.ID > p.Until }); i >= 0 {
			blobs = blobs[:i]
		}
		if len(blobs) == 0 {
			break
		}
		for _, b := range blobs {
			if err := s.blob(ctx, b, p); err != nil {
				return "", err
			}
			p.After = b.ID
			if time.Since(saved) < s.opts.Checkpoint {
				continue
			}
			if _, err := patiently(ctx, s, func() (struct{}, error) { return struct{}{}, note() }); err != nil {
				return "", err
			}
		}
	}
	p.Ended = time.Now()
	state = State{Last: p}
	if _, err := patiently(ctx, s, func() (struct{}, error) { return struct{}{}, note() }); err != nil {
		return "", err
	}
	result = fmt.Sprintf("%d blobs of %d bytes: %d damaged, %d unreadable, %d mended", p.Blobs, p.Bytes, p.Damaged, p.Unreadable, p.Mended)
	s.opts.Log.Info("scrubbed", "blobs", p.Blobs, "bytes", p.Bytes, "damaged", p.Damaged, "unreadable", p.Unreadable, "mended", p.Mended, "took", p.Ended.Sub(p.Began))
	return result, nil
}

func (s *Scrubber) save(ctx context.Context, holder string, state State) error {
	b, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return s.db.SetJobState(ctx, Job, holder, string(b))
}

// again looks at the blobs that are known to be damaged, some of which may have been restored, or can be mended by now.
func (s *Scrubber) again(ctx context.Context, p *Pass) error {
	for after := int64(0); ; {
		all, err := patiently(ctx, s, func() ([]meta.DamagedBlob, error) { return s.db.DamagedBlobs(ctx, after, page) })
		if err != nil || len(all) == 0 {
			return err
		}
		for _, b := range all {
			after = b.ID
			seen := *p // what is counted is the pass over everything
			if err := s.blob(ctx, meta.StoredBlob{ID: b.ID, Digest: b.Digest.String(), Size: b.Size, Key: b.Key, Known: b.Damage}, &seen); err != nil {
				return err
			}
			p.Mended = seen.Mended
		}
	}
}

// patiently tries something until what it needs can be reached.
func patiently[T any](ctx context.Context, s *Scrubber, do func() (T, error)) (T, error) {
	for told := false; ; told = true {
		v, err := do()
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		if !errors.Is(err, blob.ErrUnavailable) && !errors.Is(err, meta.ErrUnavailable) {
			return v, err
		}
		if !told {
			s.opts.Log.Warn("the scrub waits", "error", err)
		}
		if err := s.wait(ctx); err != nil {
			return v, err
		}
	}
}

func (s *Scrubber) wait(ctx context.Context) error {
	timer := time.NewTimer(s.opts.Retry)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// finding is what came of reading a blob: no damage if it is right, or gone.
type finding struct {
	damage meta.Damage
	detail string
}

// blob verifies one blob, and notes what is found.
func (s *Scrubber) blob(ctx context.Context, b meta.StoredBlob, p *Pass) error {
	d, err := oci.ParseDigest(b.Digest)
	if err != nil {
		return fmt.Errorf("blob %d: %w", b.ID, err)
	}
	found, err := s.examine(ctx, b, d)
	if err != nil {
		return err
	}
	p.Blobs++
	p.Bytes += b.Size
	if found.damage == "" {
		if b.Known == "" {
			return nil
		}
		s.opts.Log.Info("a blob that was damaged is whole again", "digest", b.Digest)
		_, err := patiently(ctx, s, func() (struct{}, error) { return struct{}{}, s.db.ClearDamage(ctx, b.ID, b.Key) })
		return err
	}
	repositories, err := patiently(ctx, s, func() ([]oci.Repository, error) { return s.db.Holders(ctx, b.ID, 5) })
	if err != nil {
		return err
	}
	news, err := patiently(ctx, s, func() (bool, error) {
		return s.changes("blob.damaged", b, found, repositories).MarkDamaged(ctx, b.ID, b.Key, found.damage, found.detail, time.Now())
	})
	if errors.Is(err, meta.ErrNotFound) {
		return nil // it is gone, or was pushed again meanwhile
	}
	if err != nil {
		return err
	}
	if found.damage == meta.Unreadable {
		p.Unreadable++
	} else {
		p.Damaged++
	}
	if news {
		s.opts.Log.Error("a blob is damaged", "digest", b.Digest, "damage", string(found.damage), "detail", found.detail, "repositories", repositories, "object", b.Key)
	}
	for _, from := range s.opts.Menders {
		err := s.mend(ctx, from, b, d, found, repositories)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, meta.ErrNotFound):
			return nil // as above
		case err != nil:
			s.opts.Log.Warn("a damaged blob could not be mended", "digest", b.Digest, "from", from.String(), "error", err)
		default:
			p.Mended++
			s.opts.Log.Info("a damaged blob was mended", "digest", b.Digest, "from", from.String())
			return nil
		}
	}
	return nil
}

// changes returns the database for a change that is in the audit log.
func (s *Scrubber) changes(action string, b meta.StoredBlob, found finding, repositories []oci.Repository) *meta.DB {
	if !s.opts.Audit {
		return s.db
	}
	return s.db.WithAudit(func() meta.AuditEntry {
		detail := fmt.Sprintf("%s: %s; in %v", found.damage, found.detail, repositories)
		return meta.AuditEntry{AuditPlace: meta.AuditPlace{At: time.Now()}, Actor: Job, Action: action, Object: "blobs/" + b.Digest, Detail: detail, Allowed: true}
	})
}

// examine reads a blob, up to three times if that fails, and a second time if its bytes are not right.
func (s *Scrubber) examine(ctx context.Context, b meta.StoredBlob, d oci.Digest) (found finding, err error) {
	wrong, failed := 0, 0
	for {
		got, size, err := s.read(ctx, b, d)
		switch {
		case ctx.Err() != nil:
			return found, ctx.Err()
		case errors.Is(err, blob.ErrNotFound):
			// The bytes go after the row.
			again, err := patiently(ctx, s, func() ([]meta.StoredBlob, error) { return s.db.StoredBlobs(ctx, b.ID-1, 1) })
			if err != nil || len(again) == 0 || again[0].ID != b.ID || again[0].Key != b.Key {
				return found, err
			}
			if _, err := patiently(ctx, s, func() (struct{}, error) { return struct{}{}, s.there(ctx) }); err != nil {
				return found, err
			}
			return finding{meta.Missing, "there is no object"}, nil
		case err != nil:
			if failed++; failed == 3 {
				return finding{meta.Unreadable, err.Error()}, nil
			}
			if err := s.wait(ctx); err != nil {
				return found, err
			}
			continue
		}
		if s.opts.Observe != nil {
			s.opts.Observe(size)
		}
		if got == d && size == b.Size {
			if wrong > 0 {
				s.opts.Log.Warn("a blob was read wrong once, and right the next time", "digest", b.Digest, "object", b.Key)
			}
			s.whole = b.Key
			return finding{}, nil
		}
		if wrong++; wrong == 2 {
			if size != b.Size {
				return finding{meta.Rotten, fmt.Sprintf("it has %d bytes, not %d", size, b.Size)}, nil
			}
			return finding{meta.Rotten, fmt.Sprintf("its bytes are %s", got)}, nil
		}
	}
}

// there fails if the storage seems to have nothing of what it should have, as a folder has whose disk is not mounted: then no blob is said to be missing.
func (s *Scrubber) there(ctx context.Context) error {
	if s.whole != "" {
		if _, err := s.store.Stat(ctx, s.whole); !errors.Is(err, blob.ErrNotFound) {
			return err
		}
	}
	last, err := s.db.LastBlob(ctx)
	if err != nil {
		return err
	}
	for _, after := range []int64{0, last / 2} {
		some, err := s.db.StoredBlobs(ctx, after, page)
		if err != nil {
			return err
		}
		for _, b := range some {
			if _, err := s.store.Stat(ctx, b.Key); !errors.Is(err, blob.ErrNotFound) {
				return err
			}
		}
	}
	return errors.New("the storage has none of many objects that it should have: is it the right one, and is its disk mounted?")
}

// read returns what the stored bytes of a blob are.
func (s *Scrubber) read(ctx context.Context, b meta.StoredBlob, d oci.Digest) (oci.Digest, int64, error) {
	type result struct {
		digest oci.Digest
		size   int64
	}
	got, err := patiently(ctx, s, func() (result, error) {
		digest, size, err := blob.HashObject(ctx, s.paced, b.Key, d.Algorithm())
		return result{digest, size}, err
	})
	return got.digest, got.size, err
}

// mendTime bounds how long an object may be there without a row, because the collector takes what has none for longer than an hour.
const mendTime = 30 * time.Minute

// mend replaces the object of a damaged blob.
func (s *Scrubber) mend(ctx context.Context, from Mender, b meta.StoredBlob, d oci.Digest, found finding, repositories []oci.Repository) (err error) {
	ctx, cancel := context.WithTimeout(ctx, mendTime)
	defer cancel()
	body, err := from.Open(ctx, repositories, d, b.Size)
	if err != nil {
		return err
	}
	defer body.Close()
	w, err := s.store.Create(ctx)
	if err != nil {
		return err
	}
	up := blob.NewUpload(w, d.Algorithm())
	defer up.Close()
	if _, err := up.ReadFrom(ctx, io.LimitReader(body, b.Size+1)); err != nil {
		up.Abort()
		return err
	}
	if got := up.Digest(); got != d {
		up.Abort()
		return fmt.Errorf("the bytes from there are %s", got)
	}
	if err = up.Commit(ctx); err == nil {
		err = s.changes("blob.mended", b, finding{found.damage, "from " + from.String()}, repositories).
			ReplaceObject(ctx, b.ID, b.Key, up.Key(), up.Size(), time.Now())
	}
	// After any other failure it is not known whether the row names the new object; if not, the collector sweeps it.
	if errors.Is(err, meta.ErrNotFound) {
		err = errors.Join(err, s.store.Delete(context.WithoutCancel(ctx), up.Key()))
	}
	return err
}

// pacedStore reads objects no faster than a limit.
type pacedStore struct {
	blob.Store
	limit *rate.Limiter
}

// Open implements blob.Store.
func (s *pacedStore) Open(ctx context.Context, key string) (blob.Reader, error) {
	r, err := s.Store.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	return &pacedReader{Reader: r, ctx: ctx, limit: s.limit}, nil
}

type pacedReader struct {
	blob.Reader
	ctx   context.Context
	limit *rate.Limiter
}

// Read implements io.Reader.
func (r *pacedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(len(p), r.limit.Burst())])
	if n > 0 {
		if wait := r.limit.WaitN(r.ctx, n); wait != nil {
			return n, wait
		}
	}
	return n, err
}
