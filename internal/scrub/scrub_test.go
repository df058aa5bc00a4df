package scrub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/fsck"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/scrub"
	"github.com/berthregistry/berth/test/service"
)

// world is a registry whose stored bytes a test can change behind its back.
type world struct {
	testing.TB
	db    *meta.DB
	store *faulty
	reg   *registry.Registry
	rot   func(key string, b []byte) // puts other bytes there; removes them if b is nil
}

// faulty fails to find objects when it is told to.
type faulty struct {
	blob.Store
	fail func(key string) error
}

func (s *faulty) Open(ctx context.Context, key string) (blob.Reader, error) {
	if s.fail != nil {
		if err := s.fail(key); err != nil {
			return nil, err
		}
	}
	return s.Store.Open(ctx, key)
}

func (s *faulty) Stat(ctx context.Context, key string) (int64, error) {
	if s.fail != nil {
		if err := s.fail(key); err != nil {
			return 0, err
		}
	}
	return s.Store.Stat(ctx, key)
}

// onEach runs a test on a folder with SQLite, and on a bucket with PostgreSQL.
func onEach(t *testing.T, test func(*world)) {
	open := func(t *testing.T, source string, store blob.Store) *world {
		t.Helper()
		w := &world{TB: t, store: &faulty{Store: store}}
		var err error
		if w.db, err = meta.Open(t.Context(), source, meta.Options{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.db.Close() })
		if w.reg, err = registry.New(t.Context(), w.db, w.store, registry.Options{
			Sparse: func(oci.Repository) registry.Sparse { return registry.SparseIndex },
			Delete: true, Grace: time.Hour, UploadExpiry: time.Hour,
		}); err != nil {
			t.Fatal(err)
		}
		return w
	}
	t.Run("sqlite and a folder", func(t *testing.T) {
		dir := t.TempDir()
		store, err := fs.Open(filepath.Join(dir, "blobs"), fs.Options{KeepOpen: 10})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		w := open(t, filepath.Join(dir, "berth.db"), store)
		w.rot = func(key string, b []byte) {
			path := filepath.Join(dir, "blobs", key)
			err := os.Remove(path)
			if b != nil {
				err = errors.Join(err, os.WriteFile(path, b, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		test(w)
	})
	t.Run("postgres and a bucket", func(t *testing.T) {
		bucket := service.S3(t)
		store, err := s3.Open(t.Context(), s3.Options{
			Bucket: bucket.Name, Endpoint: bucket.Endpoint, Region: bucket.Region, AccessKeyID: bucket.AccessKey, SecretAccessKey: bucket.SecretKey,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		w := open(t, service.Postgres(t).URL, store)
		client, err := minio.New(strings.TrimPrefix(bucket.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(bucket.AccessKey, bucket.SecretKey, "")})
		if err != nil {
			t.Fatal(err)
		}
		w.rot = func(key string, b []byte) {
			name := ""
			for o := range client.ListObjects(t.Context(), bucket.Name, minio.ListObjectsOptions{Recursive: true}) {
				if strings.HasSuffix(o.Key, key) {
					name = o.Key
				}
			}
			err := client.RemoveObject(t.Context(), bucket.Name, name, minio.RemoveObjectOptions{})
			if b != nil {
				_, err = client.PutObject(t.Context(), bucket.Name, name, bytes.NewReader(b), int64(len(b)), minio.PutObjectOptions{})
			}
			if name == "" || err != nil {
				t.Fatalf("object %s of %s: %v", name, key, err)
			}
		}
		test(w)
	})
}

func digestOf(b string) oci.Digest { return oci.DigestBytes(oci.SHA256, []byte(b)) }

func (w *world) push(r oci.Repository, b string) {
	w.Helper()
	if err := w.reg.PutBlob(w.Context(), r, digestOf(b), registry.Body{Reader: strings.NewReader(b), First: -1, Interrupt: func() {}}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) key(r oci.Repository, b string) string {
	w.Helper()
	found, err := w.db.Blob(w.Context(), r, digestOf(b))
	if err != nil {
		w.Fatal(err)
	}
	return found.Key
}

// want fails the test unless the repository gives out the bytes, or nothing.
func (w *world) want(r oci.Repository, b string, there bool) {
	w.Helper()
	for _, look := range []func(context.Context, oci.Repository, oci.Digest) (*meta.Blob, error){w.reg.Blob, w.reg.CheckBlob} {
		found, err := look(w.Context(), r, digestOf(b))
		if !there {
			if e, ok := errors.AsType[*oci.Error](err); !ok || e.Code != oci.CodeBlobUnknown {
				w.Errorf("%q of %s: %v, expected that it is not there", b, r, err)
			}
			continue
		}
		if err != nil {
			w.Errorf("%q of %s: %v", b, r, err)
			continue
		}
		rd, err := w.reg.OpenBlob(w.Context(), r, found)
		if err != nil {
			w.Error(err)
			continue
		}
		got, err := io.ReadAll(rd)
		rd.Close()
		if string(got) != b || err != nil {
			w.Errorf("%q of %s is %q, %v", b, r, got, err)
		}
	}
}

// scrub makes a pass.
func (w *world) scrub(opts scrub.Options) scrub.Pass {
	w.Helper()
	opts.Log, opts.Retry = slog.New(slog.DiscardHandler), time.Millisecond
	if _, err := scrub.New(w.db, w.store, opts).Run(w.Context()); err != nil {
		w.Fatal(err)
	}
	state := w.state()
	if state.Pass != nil || state.Last == nil || state.Last.Ended.IsZero() {
		w.Fatalf("after a pass the state is %+v", state)
	}
	return *state.Last
}

func (w *world) state() scrub.State {
	w.Helper()
	j, err := w.db.Job(w.Context(), scrub.Job)
	if err != nil {
		w.Fatal(err)
	}
	state, err := scrub.StateOf(j)
	if err != nil {
		w.Fatal(err)
	}
	return state
}

func (w *world) wantDamaged(want map[meta.Damage]int64) {
	w.Helper()
	got, err := w.db.CountDamaged(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	for _, d := range []meta.Damage{meta.Rotten, meta.Missing, meta.Unreadable} {
		if got[d] != want[d] {
			w.Errorf("%d blobs are %s, expected %d", got[d], d, want[d])
		}
	}
}

// Whatever happened to the bytes, a scrub finds it; from then on nobody gets them, and the next push mends the blob everywhere.
func TestScrub(t *testing.T) {
	onEach(t, func(w *world) {
		for _, b := range []string{"whole", "rotten", "short", "missing"} {
			w.push("a/app", b)
			w.push("b/app", b)
		}
		if p := w.scrub(scrub.Options{}); p.Blobs != 4 || p.Bytes != 23 || p.Damaged != 0 {
			w.Errorf("%+v", p)
		}
		w.rot(w.key("a/app", "rotten"), []byte("rottem"))
		w.rot(w.key("a/app", "short"), []byte("sho"))
		w.rot(w.key("a/app", "missing"), nil)
		before := time.Now().Add(-time.Second)
		if p := w.scrub(scrub.Options{Audit: true}); p.Blobs != 4 || p.Damaged != 3 || p.Unreadable != 0 {
			w.Errorf("%+v", p)
		}
		w.wantDamaged(map[meta.Damage]int64{meta.Rotten: 2, meta.Missing: 1})
		if since, err := w.db.AllVerifiedSince(w.Context()); err != nil || since.Before(before) {
			w.Errorf("all verified since %s, %v", since, err)
		}
		entries, _, err := w.db.Audit(w.Context(), meta.AuditFilter{}, meta.AuditPlace{}, 10)
		if err != nil || len(entries) != 3 || entries[0].Action != "blob.damaged" || !strings.HasPrefix(entries[0].Object, "blobs/sha256:") {
			w.Errorf("audit: %+v, %v", entries, err)
		}
		for _, b := range []string{"rotten", "short", "missing"} {
			w.want("a/app", b, false)
			w.want("b/app", b, false)
			if mounted, err := w.reg.MountBlob(w.Context(), "c/app", "a/app", digestOf(b)); mounted || err != nil {
				w.Errorf("%q was mounted: %v", b, err)
			}
		}
		w.want("a/app", "whole", true)

		// fsck knows what the scrub knows, and the other way round.
		for _, deep := range []bool{false, true} {
			report, err := fsck.Run(w.Context(), w.db, w.store, fsck.Options{Deep: deep})
			if err != nil || report.Damaged != 3 {
				w.Errorf("fsck, deep: %t: %+v, %v", deep, report, err)
			}
		}

		for _, b := range []string{"rotten", "short", "missing"} {
			w.push("b/app", b)
			w.want("a/app", b, true)
			w.want("b/app", b, true)
		}
		w.wantDamaged(nil)
		if p := w.scrub(scrub.Options{}); p.Blobs != 4 || p.Damaged != 0 {
			w.Errorf("%+v", p)
		}

		// What was restored behind the registry's back is whole again.
		key := w.key("a/app", "whole")
		w.rot(key, []byte("WHOLE"))
		w.scrub(scrub.Options{})
		w.want("a/app", "whole", false)
		w.rot(key, []byte("whole"))
		report, err := fsck.Run(w.Context(), w.db, w.store, fsck.Options{Deep: true})
		if err != nil || report.Damaged != 0 || report.Leftover == 0 {
			w.Errorf("fsck: %+v, %v", report, err)
		}
		w.scrub(scrub.Options{})
		w.want("a/app", "whole", true)
	})
}

// A storage that is away, and reads that fail or go wrong once, are no rot.
func TestTransientFailures(t *testing.T) {
	onEach(t, func(w *world) {
		w.push("app", "bytes")
		w.push("app", "others")
		var fails atomic.Int64
		w.store.fail = func(string) error {
			if n := fails.Add(1); n%4 != 0 {
				return fmt.Errorf("gone for a moment: %w", blob.ErrUnavailable)
			}
			return nil
		}
		if p := w.scrub(scrub.Options{}); p.Blobs != 2 || p.Damaged+p.Unreadable != 0 {
			w.Errorf("%+v", p)
		}
		fails.Store(0)
		w.store.fail = func(string) error {
			if fails.Add(1) <= 2 {
				return errors.New("input/output error")
			}
			return nil
		}
		if p := w.scrub(scrub.Options{}); p.Damaged+p.Unreadable != 0 {
			w.Errorf("%+v", p)
		}
		bad := w.key("app", "bytes")
		w.store.fail = func(key string) error {
			if key == bad {
				return errors.New("input/output error")
			}
			return nil
		}
		if p := w.scrub(scrub.Options{}); p.Damaged != 0 || p.Unreadable != 1 || p.Blobs != 2 {
			w.Errorf("%+v", p)
		}
		w.wantDamaged(map[meta.Damage]int64{meta.Unreadable: 1})
		w.store.fail = nil
		w.want("app", "bytes", true)
		w.scrub(scrub.Options{})
		w.wantDamaged(nil)

		// Wrong bytes of one read are not believed.
		w.store.fail = func(key string) error {
			if key == bad && fails.Add(1)%2 == 0 {
				w.rot(key, []byte("bytes"))
			}
			return nil
		}
		fails.Store(0)
		w.rot(bad, []byte("BYTES"))
		if p := w.scrub(scrub.Options{}); p.Damaged != 0 {
			w.Errorf("%+v", p)
		}
	})
}

// A pass that is stopped goes on where it was, whoever goes on with it.
func TestResume(t *testing.T) {
	onEach(t, func(w *world) {
		for i := range 250 {
			w.push("app", fmt.Sprintf("blob %d", i))
		}
		ctx, cancel := context.WithCancel(w.Context())
		read := 0
		state := scrub.State{Pass: &scrub.Pass{Began: time.Now()}}
		_, err := scrub.New(w.db, w.store, scrub.Options{Log: slog.New(slog.DiscardHandler), Observe: func(int64) {
			if read++; read == 120 {
				cancel()
			}
		}, Checkpoint: time.Nanosecond}).Run(ctx)
		if !errors.Is(err, context.Canceled) {
			w.Fatal(err)
		}
		if state = w.state(); state.Pass == nil || state.Pass.Blobs < 100 || state.Pass.Blobs > 120 {
			w.Fatalf("%+v", state.Pass)
		}
		again := 0
		p := w.scrub(scrub.Options{Observe: func(int64) { again++ }})
		if p.Blobs != 250 || int64(again) != 250-state.Pass.Blobs || !p.Began.Equal(state.Pass.Began) {
			w.Errorf("%d were read after %d: %+v", again, state.Pass.Blobs, p)
		}
	})
}

// However much is pushed meanwhile, a pass ends, and the next one reads that.
func TestPassEnds(t *testing.T) {
	onEach(t, func(w *world) {
		w.push("app", "first")
		w.push("app", "second")
		n := 0
		if p := w.scrub(scrub.Options{Observe: func(int64) { n++; w.push("app", fmt.Sprint("later ", n)) }}); p.Blobs != 2 {
			w.Errorf("%+v", p)
		}
		if p := w.scrub(scrub.Options{}); p.Blobs != 4 {
			w.Errorf("%+v", p)
		}
	})
}

// A storage that has nothing at all is another one, or not mounted: nobody hears that blobs are missing, and the pass goes on when it is back.
func TestStorageNotThere(t *testing.T) {
	onEach(t, func(w *world) {
		for i := range 5 {
			w.push("app", fmt.Sprint("blob ", i))
		}
		lost := w.key("app", "blob 0")
		run := func() error {
			_, err := scrub.New(w.db, w.store, scrub.Options{Log: slog.New(slog.DiscardHandler), Retry: time.Millisecond}).Run(w.Context())
			return err
		}
		w.store.fail = func(string) error { return blob.ErrNotFound }
		if err := run(); err == nil || !strings.Contains(err.Error(), "mounted") {
			w.Fatalf("without a storage: %v", err)
		}
		w.wantDamaged(nil)
		// It vanishes in the middle of a pass.
		read := 0
		w.store.fail = func(string) error {
			if read++; read > 2 {
				return blob.ErrNotFound
			}
			return nil
		}
		if err := run(); err == nil {
			w.Fatal("a storage that is gone was not noticed")
		}
		w.wantDamaged(nil)
		w.store.fail = func(key string) error {
			if key == lost {
				return blob.ErrNotFound
			}
			return nil
		}
		if err := run(); err != nil {
			w.Fatal(err)
		}
		w.wantDamaged(map[meta.Damage]int64{meta.Missing: 1})
		w.want("app", "blob 0", false)
		w.want("app", "blob 1", true)
	})
}

// Who has lost the lease in the middle of a pass does not put back how far it was.
func TestLostLease(t *testing.T) {
	onEach(t, func(w *world) {
		for i := range 5 {
			w.push("app", fmt.Sprint("blob ", i))
		}
		start := func(holder string) {
			started := false
			for range 2 { // the first time nobody has heard of the job
				var err error
				if started, _, err = w.db.StartJob(w.Context(), scrub.Job, holder, 0, 0, time.Hour); err != nil {
					w.Fatal(err)
				}
				if started {
					break
				}
			}
			if !started {
				w.Fatalf("%s does not start", holder)
			}
		}
		start("a")
		read := 0
		_, err := scrub.New(w.db, w.store, scrub.Options{Log: slog.New(slog.DiscardHandler), Checkpoint: time.Nanosecond, Observe: func(int64) {
			if read++; read == 3 {
				if err := w.db.RenewJob(w.Context(), scrub.Job, "a", -time.Hour); err != nil {
					w.Fatal(err)
				}
				start("b")
				if p := w.scrub(scrub.Options{}); p.Blobs != 5 {
					w.Errorf("who took over: %+v", p)
				}
			}
		}}).Run(w.Context())
		if !errors.Is(err, meta.ErrLost) || read != 3 {
			w.Errorf("who lost the lease read %d: %v", read, err)
		}
		if state := w.state(); state.Pass != nil || state.Last == nil || state.Last.Blobs != 5 {
			w.Errorf("%+v", state)
		}
	})
}

// A blob that is pushed again, or deleted, while it is read is not said to be damaged, whatever was read.
func TestChangedWhileRead(t *testing.T) {
	onEach(t, func(w *world) {
		for _, b := range []string{"pushed again", "deleted"} {
			w.push("app", b)
			w.rot(w.key("app", b), []byte("x"))
		}
		read := 0
		p := w.scrub(scrub.Options{Menders: []scrub.Mender{source{digestOf("deleted"): "deleted"}}, Observe: func(int64) {
			switch read++; read {
			case 2: // as of the first blob, just before it is marked
				w.push("app", "pushed again")
			case 4:
				if err := w.db.DeleteBlob(w.Context(), "app", digestOf("deleted"), meta.Origin{}, time.Now()); err != nil {
					w.Fatal(err)
				}
			}
		}})
		if p.Blobs != 2 || p.Damaged+p.Unreadable+p.Mended != 0 || read != 4 {
			w.Errorf("%d reads: %+v", read, p)
		}
		w.wantDamaged(nil)
		w.want("app", "pushed again", true)
		w.want("app", "deleted", false)
	})
}

// source is a Mender.
type source map[oci.Digest]string

func (s source) String() string { return "elsewhere" }

func (s source) Close() error { return nil }

// none is a Mender that has nothing, and counts how often it was given back.
type none struct{ closed *int }

func (none) String() string { return "nowhere" }

func (n none) Close() error { *n.closed++; return nil }

func (none) Open(context.Context, []oci.Repository, oci.Digest, int64) (io.ReadCloser, error) {
	return nil, blob.ErrNotFound
}

func (s source) Open(_ context.Context, in []oci.Repository, d oci.Digest, size int64) (io.ReadCloser, error) {
	if s[d] == "" || len(in) == 0 {
		return nil, blob.ErrNotFound
	}
	return io.NopCloser(strings.NewReader(s[d])), nil
}

// A damaged blob is mended from elsewhere, but only with the right bytes.
func TestMend(t *testing.T) {
	onEach(t, func(w *world) {
		blobs := []string{"mended", "lacked", "lied about", "too long"}
		for _, b := range blobs {
			w.push("a/app", b)
			w.push("b/app", b)
			w.rot(w.key("a/app", b), []byte(strings.ToUpper(b)))
		}
		closed := 0
		from := source{digestOf("mended"): "mended", digestOf("lied about"): "lied aboux", digestOf("too long"): "too long "}
		if p := w.scrub(scrub.Options{Menders: []scrub.Mender{none{&closed}, from}, Audit: true}); p.Damaged != 4 || p.Mended != 1 {
			w.Errorf("%+v", p)
		}
		for _, b := range blobs {
			w.want("a/app", b, b == "mended")
			w.want("b/app", b, b == "mended")
		}
		w.wantDamaged(map[meta.Damage]int64{meta.Rotten: 3})
		from[digestOf("lacked")] = "lacked"
		if p := w.scrub(scrub.Options{Menders: []scrub.Mender{none{&closed}, from}, Rate: 1 << 20}); p.Damaged != 2 || p.Mended != 1 {
			w.Errorf("%+v", p)
		}
		w.want("a/app", "lacked", true)
		if closed != 2 {
			w.Errorf("after two passes, a source was given back %d times", closed)
		}
		objects := 0
		for _, err := range w.store.List(w.Context(), time.Time{}, time.Time{}) {
			if err != nil {
				w.Fatal(err)
			}
			objects++
		}
		doomed, err := w.db.Doomed(w.Context(), "", 100)
		if err != nil || objects-len(doomed) != len(blobs) {
			w.Errorf("%d objects, %d of them doomed, %v", objects, len(doomed), err)
		}
	})
}
