package gc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

const (
	grace  = 24 * time.Hour
	expiry = 6 * time.Hour
)

// inBubble runs a test whose clock advances only when everyone waits.
func inBubble(t *testing.T, run func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, grace, expiry)
		defer w.close()
		run(w)
	})
}

// long is more than a blob without a manifest is kept, whatever happened to it.
const long = 2 * grace

func TestCollectBlobs(t *testing.T) {
	inBubble(t, func(w *world) {
		used, spare, shared := text("used"), text("spare"), text("shared")
		w.push("a/app", used)
		w.push("a/app", spare)
		w.push("a/app", shared)
		w.push("b/app", shared)
		w.tag("a/app", "1", image("", digestOf(used)))
		w.tag("b/app", "1", image("", digestOf(shared)))
		w.collect()
		w.wantFiles(3) // what two repositories have is stored once
		for _, b := range [][]byte{used, spare, shared} {
			w.want("a/app", b, true)
		}
		time.Sleep(grace - time.Second)
		w.collect()
		w.want("a/app", spare, true)

		time.Sleep(long)
		if res := w.collect(); res.Links != 2 || res.Blobs != 1 || res.Bytes != int64(len(spare)) || res.Repositories != 0 || res.Objects != 1 {
			w.Errorf("the pass took away %+v", res)
		}
		w.want("a/app", used, true)
		w.want("a/app", spare, false)
		w.want("a/app", shared, false)
		w.want("b/app", shared, true)
		w.wantFiles(2)
		if res := w.collect(); res != (gc.Result{}) {
			w.Errorf("a second pass took away %+v", res)
		}
	})
}

// A blob begins its grace period anew when it loses its last manifest.
func TestCollectAfterDelete(t *testing.T) {
	inBubble(t, func(w *world) {
		b := text("layer")
		w.push("app", b)
		first, second := image("1", digestOf(b)), image("2", digestOf(b))
		w.tag("app", "1", first)
		w.tag("app", "2", second)
		time.Sleep(long)
		w.deleteManifest("app", digestOf(first))
		time.Sleep(long)
		w.collect()
		w.want("app", b, true)
		w.deleteManifest("app", digestOf(second))
		w.wantCatalog()
		time.Sleep(grace - time.Second)
		w.collect()
		w.want("app", b, true)
		time.Sleep(long)
		if res := w.collect(); res.Repositories != 1 {
			w.Errorf("the pass took away %+v, expected the repository too", res)
		}
		w.want("app", b, false)
		w.wantFiles(0)
		if _, err := w.reg.Tags(w.Context(), "app", "", 1); err == nil {
			w.Error("the empty repository is still there")
		}
	})
}

// Who is told that a blob is there can rely on it for the whole grace period, however
// late in an earlier one the question comes.
func TestCheckedBlobStays(t *testing.T) {
	for _, age := range []time.Duration{0, grace / 8, grace / 4, grace/2 - 1, grace / 2, grace/2 + time.Second, grace - time.Second} {
		t.Run(age.String(), func(t *testing.T) {
			inBubble(t, func(w *world) {
				b := text("layer")
				w.push("app", b)
				time.Sleep(age)
				if _, err := w.reg.CheckBlob(w.Context(), "app", digestOf(b)); err != nil {
					w.Fatal(err)
				}
				time.Sleep(grace)
				w.collect()
				w.tag("app", "1", image("", digestOf(b)))
			})
		})
	}
}

// A mount and a push of what is there begin the grace period anew, too.
func TestPushedAgainStays(t *testing.T) {
	inBubble(t, func(w *world) {
		b := text("layer")
		w.push("from", b)
		w.push("into", b)
		for range 5 {
			time.Sleep(grace - time.Second)
			w.push("from", b)
			if ok, err := w.reg.MountBlob(w.Context(), "into", "from", digestOf(b)); !ok || err != nil {
				w.Fatal(ok, err)
			}
			w.collect()
			w.want("from", b, true)
			w.want("into", b, true)
		}
		w.wantFiles(1)
	})
}

func TestUploadsExpire(t *testing.T) {
	inBubble(t, func(w *world) {
		begin := func(b []byte) registry.Session {
			s := w.reg.StartUpload("app", oci.SHA256, 0)
			if n, err := w.reg.AppendUpload(w.Context(), s, body(b)); err != nil || n != int64(len(b)) {
				w.Fatal(n, err)
			}
			return s
		}
		unused, used, cancelled := begin(text("unused")), begin(text("used ")), begin(text("cancelled"))
		w.wantFiles(3)
		if err := w.reg.CancelUpload(w.Context(), cancelled); err != nil {
			w.Fatal(err)
		}
		if res := w.collect(); res.Objects != 1 {
			w.Errorf("the pass after a cancel took away %+v", res)
		}
		w.wantFiles(2)
		for range 4 {
			time.Sleep(expiry - time.Minute)
			if _, err := w.reg.AppendUpload(w.Context(), used, body(text("."))); err != nil {
				w.Fatal(err)
			}
			w.collect()
		}
		w.wantFiles(1)
		for _, s := range []registry.Session{unused, cancelled} {
			if _, err := w.reg.UploadSize(w.Context(), s); !unknown(err) {
				w.Errorf("an upload that is gone: %v", err)
			}
			if _, err := w.reg.AppendUpload(w.Context(), s, body(text("x"))); !unknown(err) {
				w.Errorf("an upload that is gone takes bytes: %v", err)
			}
		}
		if err := w.reg.FinishUpload(w.Context(), used, digestOf(text("used ....")), body(nil)); err != nil {
			w.Error(err)
		}
		w.want("app", text("used ...."), true)
	})
}

// drip is a body that comes a byte at a time.
type drip struct {
	left  int
	pause time.Duration
}

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	d.left--
	time.Sleep(d.pause)
	p[0] = 'x'
	return 1, nil
}

// collecting runs the collector all the time until the function is called.
func (w *world) collecting() (stop func()) {
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			w.collect()
			select {
			case <-time.After(20 * time.Minute):
			case <-ctx.Done():
			}
		}
	}()
	return func() { cancel(); <-done }
}

// An upload over a slow line takes as long as it takes, longer than every period there is.
func TestSlowUpload(t *testing.T) {
	const pause = 50 * time.Second
	n := int((grace + expiry) / pause)
	for name, upload := range map[string]func(*world, oci.Digest, registry.Body) error{
		"POST": func(w *world, d oci.Digest, b registry.Body) error { return w.reg.PutBlob(w.Context(), "app", d, b) },
		"PUT": func(w *world, d oci.Digest, b registry.Body) error {
			return w.reg.FinishUpload(w.Context(), w.reg.StartUpload("app", oci.SHA256, 0), d, b)
		},
		"PATCH": func(w *world, d oci.Digest, b registry.Body) error {
			s := w.reg.StartUpload("app", oci.SHA256, 0)
			if _, err := w.reg.AppendUpload(w.Context(), s, b); err != nil {
				return err
			}
			return w.reg.FinishUpload(w.Context(), s, d, body(nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				defer w.collecting()()
				want := bytes.Repeat([]byte("x"), n)
				b := registry.Body{Reader: &drip{n, pause}, First: -1, Interrupt: func() {}}
				if err := upload(w, digestOf(want), b); err != nil {
					w.Fatal(err)
				}
				w.want("app", want, true)
			})
		})
	}
}

// A session that is used again in the last moment does not expire under its client.
func TestLateUpload(t *testing.T) {
	inBubble(t, func(w *world) {
		defer w.collecting()()
		s := w.reg.StartUpload("app", oci.SHA256, 0)
		if _, err := w.reg.AppendUpload(w.Context(), s, body(text("x"))); err != nil {
			w.Fatal(err)
		}
		time.Sleep(expiry - time.Minute)
		b := registry.Body{Reader: &drip{20, 30 * time.Second}, First: 1, Interrupt: func() {}}
		if err := w.reg.FinishUpload(w.Context(), s, digestOf(bytes.Repeat([]byte("x"), 21)), b); err != nil {
			w.Error(err)
		}
	})
}

// Objects that no row speaks of go when no upload can own them any more, each hour being
// looked at once.
func TestOrphans(t *testing.T) {
	inBubble(t, func(w *world) {
		old := w.orphan(time.Now().Add(-100 * time.Hour))
		w.orphan(time.Now())
		b := text("blob")
		w.push("app", b)
		w.tag("app", "1", image("", digestOf(b)))
		s := w.reg.StartUpload("app", oci.SHA256, 0)
		if _, err := w.reg.AppendUpload(w.Context(), s, body(text("upload"))); err != nil {
			w.Fatal(err)
		}
		if res := w.collect(); res.Orphans != 1 || res.Objects != 1 {
			w.Errorf("the pass took away %+v", res)
		}
		w.wantFiles(3)
		if _, err := os.Stat(filepath.Dir(filepath.Join(w.dir, old))); !errors.Is(err, os.ErrNotExist) {
			w.Errorf("the folder of the hour is still there: %v", err)
		}
		for range 10 { // the upload is used, so it stays
			time.Sleep(expiry - time.Minute)
			if _, err := w.reg.AppendUpload(w.Context(), s, body(text("."))); err != nil {
				w.Fatal(err)
			}
			w.collect()
		}
		w.wantFiles(2)
		w.want("app", b, true)

		w.orphan(time.Now().Add(-100 * time.Hour)) // cannot come about but by hand
		if res := w.collect(); res.Orphans != 0 {
			w.Errorf("an hour was looked at twice: %+v", res)
		}
	})
}

// orphan stores an object as an upload of that time would have left it in a crash.
func (w *world) orphan(at time.Time) (key string) {
	w.Helper()
	key = at.UTC().Format("20060102/15") + "/" + "ORPHAN" + at.Format("150405")
	path := filepath.Join(w.dir, key)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte("orphan"), 0o640)); err != nil {
		w.Fatal(err)
	}
	return key
}

// Bytes whose delete fails are tried again by the next pass, and do not stop the others, nor the rest of the pass.
func TestDeleteFails(t *testing.T) {
	inBubble(t, func(w *world) {
		w.orphan(time.Now().Add(-100 * time.Hour))
		stuck := text("stuck")
		w.push("app", stuck)
		time.Sleep(2 * time.Hour) // into another folder
		w.push("app", text("free"))
		b, err := w.reg.Blob(w.Context(), "app", digestOf(stuck))
		if err != nil {
			w.Fatal(err)
		}
		// A loop of links is an error even to root.
		hour := filepath.Dir(filepath.Join(w.dir, b.Key))
		if err := errors.Join(os.Rename(hour, hour+".aside"), os.Symlink(hour, hour)); err != nil {
			w.Fatal(err)
		}
		time.Sleep(long)
		res, err := w.collector.Collect(w.Context())
		if err == nil || res.Blobs != 2 || res.Objects != 2 || res.Orphans != 1 {
			w.Errorf("the pass took away %+v, %v", res, err)
		}
		if err := errors.Join(os.Remove(hour), os.Rename(hour+".aside", hour)); err != nil {
			w.Fatal(err)
		}
		if res := w.collect(); res.Objects != 1 {
			w.Errorf("the next pass took away %+v", res)
		}
		w.wantFiles(0)
	})
}

func TestRun(t *testing.T) {
	inBubble(t, func(w *world) {
		b := text("spare")
		w.push("app", b)
		time.Sleep(long)
		if result, err := w.collector.Run(w.Context()); err != nil || result != "1 blobs of 5 bytes, 0 uploads, 0 orphans, 0 deleted manifests" {
			w.Errorf("the run said %q, %v", result, err)
		}
		w.want("app", b, false)
		w.wantFiles(0)
		ctx, stop := context.WithCancel(w.Context())
		stop()
		if _, err := w.collector.Run(ctx); !errors.Is(err, context.Canceled) {
			w.Errorf("a run that was stopped said %v", err)
		}
	})
}
