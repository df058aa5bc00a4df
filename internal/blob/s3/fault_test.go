package s3

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/test/service"
)

// TestRequests counts what the usual ways of a blob ask of the store.
func TestRequests(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	s := openStore(t, p.options(b))
	check := func(what, want string) {
		t.Helper()
		if got := p.seen(); got != want {
			t.Errorf("%s makes the requests\n%s\nwant\n%s", what, got, want)
		}
	}
	w := create(t, s)
	write(t, w, content(1, 2<<10))
	check("what has not ended", "")
	commit(t, w)
	check("a small blob", "put object")
	checkObject(t, s, w.Key(), content(1, 2<<10))
	check("reading it", "get object")

	// Docker sends every blob in a PATCH, and ends it with a PUT that has no body.
	w = create(t, s)
	write(t, w, content(2, firstPart))
	state := suspend(t, w)
	check("a PATCH of 8 MiB", "put object")
	w = resume(t, s, state)
	commit(t, w)
	check("its PUT", "stat object")
	checkObject(t, s, w.Key(), content(2, firstPart))
	p.seen()

	w = create(t, s)
	write(t, w, content(3, 30<<20))
	state = suspend(t, w)
	check("a PATCH of 30 MiB", "begin upload, put part 4")
	w = resume(t, s, state)
	commit(t, w)
	check("its PUT", "complete upload, list objects, list parts, list uploads")

	w = create(t, s)
	write(t, w, content(4, 9<<20))
	state = suspend(t, w)
	check("a PATCH of 9 MiB", "begin upload, put object, put part 2")
	w = resume(t, s, state)
	commit(t, w)
	check("its PUT", "complete upload, delete object, list objects, list parts, list uploads")

	w = create(t, s)
	commit(t, w)
	check("an empty blob", "put object")
	w = create(t, s)
	write(t, w, []byte("x"))
	w.Abort()
	check("what is aborted early", "")

	r, err := s.Open(t.Context(), put(t, s, content(5, 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	p.seen()
	if end, err := r.Seek(0, io.SeekEnd); end != 1<<20 || err != nil {
		t.Errorf("Seek to the end: %d, %v", end, err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	check("a read after finding the end", "")
	r.Close()
}

// life runs the whole life of an upload that is large, suspended and resumed with a tail.
func life(t *testing.T, nodes [2]*Store) (string, []byte) {
	t.Helper()
	want := content(7, 12<<20)
	w := create(t, nodes[0])
	write(t, w, want[:1000])
	state := suspend(t, w)
	w = resume(t, nodes[1], state)
	write(t, w, want[1000:9<<20])
	state = suspend(t, w)
	w = resume(t, nodes[0], state)
	write(t, w, want[9<<20:])
	commit(t, w)
	return w.Key(), want
}

// TestFaults spoils the first two requests of each kind in each way.
func TestFaults(t *testing.T) {
	t.Parallel()
	faults := map[string]fault{
		"500":         {status: 500, code: "InternalError"},
		"503":         {status: 503, code: "SlowDown"},
		"closed":      {closed: true},
		"lost answer": {lost: true},
		"cut body":    {takes: 700_000},
		"damage":      {damage: true},
		"hang":        {hang: true},
	}
	ops := []string{"put object", "begin upload", "put part", "complete upload", "list parts", "stat object", "get object", "delete object", "list objects"}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, op := range ops {
				if (f.takes > 0 || f.damage) && op != "put part" && op != "put object" {
					continue
				}
				t.Run(op, func(t *testing.T) {
					b := service.S3(t)
					p := newProxy(t, b)
					o := p.options(b)
					o.Stall = 700 * time.Millisecond
					if f.hang {
						o.Stall = 300 * time.Millisecond
					}
					nodes := [2]*Store{openStore(t, o), openStore(t, o)}
					hits := 0
					p.setFault(func(of string, n int) fault {
						if of == op && n <= 2 {
							hits++
							return f
						}
						return fault{}
					})
					key, want := life(t, nodes)
					checkObject(t, nodes[1], key, want)
					if hits == 0 {
						t.Errorf("the life of an upload has no %s", op)
					}
					p.setFault(nil)
					deleteOthers(t, nodes[0], key)
					checkNothingElse(t, b, key)
				})
			}
		})
	}
}

// TestNodeDies has a node die at each of the requests of an upload's life, before the store does what it asks for and after.
// Another one goes on from what the first has acknowledged, or begins anew if that is nothing.
func TestNodeDies(t *testing.T) {
	t.Parallel()
	want := content(8, 16<<20)
	for name, death := range map[string]fault{"before": {status: 400}, "after": {lost: true, status: 400}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := service.S3(t)
			for at, died := 1, true; died; at++ {
				p := newProxy(t, b)
				o := p.options(b)
				o.Stall = time.Minute // nothing hangs here, however slow the machine is
				first, second := openStore(t, o), openStore(t, optionsOf(b))
				died = false
				completed := false
				op, count := "", 0
				p.setFault(func(of string, n int) fault {
					if count++; count < at {
						return fault{}
					}
					if count == at {
						op = of
					}
					completed = completed || count == at && of == "complete upload" && death.lost
					died = true
					if count > at {
						return fault{status: 400}
					}
					return death
				})
				var saved blob.State
				key, err := lifeOf(t, first, want, &saved)
				p.setFault(nil) // and what it noted can be read
				if err != nil && !died || err == nil && died && !strings.Contains("abort upload, delete object, list objects, list uploads", op) {
					t.Fatalf("the life of an upload whose request %d, to %s, fails: %v", at, op, err)
				}
				if err == nil {
					checkObject(t, second, key, want)
					deleteOthers(t, second, "")
					continue
				}
				var w blob.Writer
				if saved.Key != "" {
					w, err = second.Resume(t.Context(), saved)
				}
				switch {
				case saved.Key == "" || completed && errors.Is(err, blob.ErrNotFound):
					w = create(t, second)
				case err != nil:
					t.Fatalf("Resume at %d after request %d failed: %v", saved.Size, at, err)
				}
				write(t, w, want[w.Size():])
				commit(t, w)
				checkObject(t, second, w.Key(), want)
				deleteOthers(t, second, w.Key())
				checkNothingElse(t, b, w.Key())
				if t.Failed() {
					t.Fatalf("request %d was to %s; saved at %d", at, op, saved.Size)
				}
				if err := second.Delete(t.Context(), w.Key()); err != nil {
					t.Fatal(err)
				}
				if at > 100 {
					t.Fatal("there is no end of requests")
				}
			}
			checkNothingElse(t, b)
		})
	}
}

// deleteOthers deletes all keys but one, as the collector does with those that no row speaks of.
func deleteOthers(t *testing.T, s *Store, but string) {
	t.Helper()
	for info, err := range s.List(t.Context(), time.Time{}, time.Time{}) {
		if err == nil && info.Key != but {
			err = s.Delete(t.Context(), info.Key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// lifeOf runs an upload's life, and notes each state that it gets.
func lifeOf(t *testing.T, s *Store, want []byte, saved *blob.State) (key string, err error) {
	t.Helper()
	ctx := t.Context()
	w := create(t, s)
	defer func() {
		w.Close()
		key = w.Key()
	}()
	for i, end := range []int{1000, 9 << 20, 9<<20 + 100, 14 << 20, 15 << 20, 15<<20 + 100_000, len(want)} {
		if _, err := w.Write(want[w.Size():end]); err != nil {
			return key, err
		}
		switch {
		case i%3 == 2:
			state, err := w.Checkpoint()(ctx)
			if err != nil {
				return key, err
			}
			*saved = state
		case end < len(want):
			state, err := w.Suspend(ctx)
			if err != nil {
				return key, err
			}
			*saved = state
			next, err := s.Resume(ctx, state)
			if err != nil {
				return key, err
			}
			w = next
		}
	}
	return key, w.Commit(ctx)
}

// TestReadBreaks breaks bodies off, or has them stall, while they are read.
func TestReadBreaks(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	o := p.options(b)
	o.Stall = 300 * time.Millisecond
	s := openStore(t, o)
	want := content(1, 12<<20)
	key := put(t, s, want)
	for name, f := range map[string]fault{
		"closed": {gives: 3<<20 + 17},
		"stalls": {gives: 3<<20 + 17, stalls: true},
		"at 1":   {gives: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p.setFault(func(op string, n int) fault {
				if n <= 3 {
					return f
				}
				return fault{}
			})
			checkObject(t, s, key, want)
			gets := p.all("get object")
			if len(gets) != 4 || gets[1].header.Get("Range") != fmt.Sprintf("bytes=%d-", f.gives) || gets[1].header.Get("If-Match") == "" {
				t.Errorf("%d requests, the second %v", len(gets), gets[1].header)
			}
		})
	}
	t.Run("always", func(t *testing.T) {
		p.setFault(func(string, int) fault { return fault{gives: 10} })
		r, err := s.Open(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if n, err := io.Copy(io.Discard, r); !errors.Is(err, blob.ErrUnavailable) || n == 0 {
			t.Errorf("read %d bytes, %v", n, err)
		}
	})
	t.Run("another object", func(t *testing.T) {
		p.setFault(func(string, int) fault { return fault{gives: 10} })
		r, err := s.Open(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		p.setFault(nil)
		if _, err := s.put(t.Context(), key, section{}); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); err == nil {
			t.Errorf("read %d bytes of two objects", n)
		}
	})
}

// TestPartLost takes a part, or the whole upload, away behind the store's back: nothing is acknowledged.
func TestPartLost(t *testing.T) {
	t.Parallel()
	server := service.NewS3(t)
	for name, lose := range map[string]func(t *testing.T, s *Store, b *service.Bucket, key string){
		"a part": func(t *testing.T, _ *Store, b *service.Bucket, _ string) {
			parts, err := filepath.Glob(filepath.Join(b.Server.Dir, b.Name, ".sgwtmp", "multipart", "*", "*", "2"))
			if err != nil || len(parts) != 1 {
				t.Fatalf("files of part 2: %q, %v", parts, err)
			}
			if err := os.Remove(parts[0]); err != nil {
				t.Fatal(err)
			}
		},
		"another part": func(t *testing.T, s *Store, b *service.Bucket, key string) {
			for u := range s.uploads(t.Context(), key, "") {
				if _, err := s.putPart(t.Context(), key, multipart{id: u.upload, crc: true}, 2, section{}); err != nil {
					t.Fatal(err)
				}
			}
		},
		"the upload": func(t *testing.T, s *Store, b *service.Bucket, key string) {
			if err := s.removeUploads(t.Context(), key, ""); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := server.Bucket(t)
			s := openStore(t, optionsOf(b))
			w := create(t, s)
			write(t, w, content(1, 25<<20))
			if _, err := w.Checkpoint()(t.Context()); err != nil {
				t.Fatal(err)
			}
			lose(t, s, b, w.Key())
			err := w.Commit(t.Context())
			if err == nil || !strings.Contains(err.Error(), w.Key()) || !strings.Contains(err.Error(), b.Name) {
				t.Errorf("Commit: %v", err)
			}
			t.Log(err)
			if _, err := s.Open(t.Context(), w.Key()); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("Open: %v", err)
			}
			if err := s.Delete(t.Context(), w.Key()); err != nil {
				t.Error(err)
			}
			checkNothingElse(t, b)
		})
	}
}

// TestErrors looks at what the contract's errors are made of.
func TestErrors(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	for name, test := range map[string]struct {
		change func(*Options)
		fault  fault
		want   error
		text   string
	}{
		"gone":           {func(o *Options) { o.Endpoint = "http://127.0.0.1:1" }, fault{}, blob.ErrUnavailable, "refused"},
		"503":            {nil, fault{status: 503, code: "SlowDown"}, blob.ErrUnavailable, "SlowDown"},
		"500 as HTML":    {nil, fault{status: 500}, blob.ErrUnavailable, "500"},
		"hang":           {func(o *Options) { o.Stall = 200 * time.Millisecond }, fault{hang: true}, blob.ErrUnavailable, "does not go on"},
		"wrong key":      {func(o *Options) { o.AccessKeyID = "nobody" }, fault{}, blob.ErrUnavailable, "XAdminUserNotFound"},
		"wrong secret":   {func(o *Options) { o.SecretAccessKey = "wrong-secret" }, fault{}, blob.ErrUnavailable, "SignatureDoesNotMatch"},
		"no bucket":      {func(o *Options) { o.Bucket = "there-is-none" }, fault{}, blob.ErrUnavailable, "there-is-none"},
		"denied":         {nil, fault{status: 403, code: "AccessDenied"}, blob.ErrUnavailable, "AccessDenied"},
		"quota":          {nil, fault{status: 403, code: "QuotaExceeded"}, blob.ErrNoSpace, "QuotaExceeded"},
		"no space":       {nil, fault{status: 507}, blob.ErrNoSpace, "507"},
		"wrong region":   {nil, fault{status: 301, code: "PermanentRedirect"}, blob.ErrUnavailable, "region"},
		"clock":          {nil, fault{status: 403, code: "RequestTimeTooSkewed"}, blob.ErrUnavailable, "RequestTimeTooSkewed"},
		"no credentials": {func(o *Options) { o.AccessKeyID, o.SecretAccessKey, o.CredentialsFile = "", "", "/nonexistent" }, fault{}, blob.ErrUnavailable, "no credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			o := p.options(b)
			o.Patience = 300 * time.Millisecond
			if test.change != nil {
				test.change(&o)
			}
			if name == "no credentials" {
				withoutCredentials(t)
			}
			p.setFault(func(string, int) fault { return test.fault })
			s := openStore(t, o)
			check := func(op string, err error) {
				t.Helper()
				if !errors.Is(err, test.want) || errors.Is(err, blob.ErrNotFound) {
					t.Errorf("%s: %v, want %v", op, err, test.want)
				}
				if err == nil {
					return
				}
				for _, part := range []string{test.text, o.Bucket, strings.TrimPrefix(o.Endpoint, "http://")} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%s: %v: does not say %q", op, err, part)
					}
				}
				for _, secret := range []string{service.S3SecretKey, "wrong-secret", "Signature="} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%s: %v: tells a secret", op, err)
					}
				}
			}
			check("Check", s.Check(t.Context()))
			w := create(t, s)
			write(t, w, []byte("x"))
			check("Commit", w.Commit(t.Context()))
			_, err := s.Open(t.Context(), w.Key())
			check("Open", err)
			for _, err := range s.List(t.Context(), time.Time{}, time.Time{}) {
				check("List", err)
			}
			w = create(t, s)
			_, err = w.Write(make([]byte, 20<<20))
			if err == nil {
				_, err = w.Suspend(t.Context())
			} else {
				w.Abort()
			}
			check("Suspend", err)
			if test.text == "there-is-none" || test.fault.status == 0 {
				_, err = s.Stat(t.Context(), w.Key())
				if errors.Is(err, blob.ErrNotFound) || err == nil {
					t.Errorf("Stat: %v", err)
				}
			}
		})
	}
}

// TestSlow has a store take longer for a part than it may be silent.
func TestSlow(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	p.rate = 3 << 20
	o := p.options(b)
	o.Stall = 1500 * time.Millisecond
	retried := 0
	o.Observe = func(ob Observation) {
		if ob.Retried {
			retried++
		}
	}
	s := openStore(t, o)
	want := content(1, firstPart)
	key := put(t, s, want)
	if retried > 0 {
		t.Errorf("a store that goes on slowly was asked %d times more", retried)
	}
	checkObject(t, s, key, want)
}

// TestOutage stops the server in the midst of an upload, and starts it again.
func TestOutage(t *testing.T) {
	t.Parallel()
	server := service.NewS3(t)
	b := server.Bucket(t)
	o := optionsOf(b)
	retried := make(chan struct{}, 1000)
	o.Observe = func(ob Observation) {
		if ob.Retried && ob.Err != nil {
			select {
			case retried <- struct{}{}:
			default:
			}
		}
	}
	s := openStore(t, o)
	want := content(1, 50<<20)
	w := create(t, s)
	write(t, w, want[:20<<20])
	server.Stop()
	done := make(chan error)
	go func() {
		_, err := w.Write(want[20<<20:])
		if err == nil {
			err = w.Commit(t.Context())
		}
		done <- err
	}()
	<-retried
	<-retried
	server.Start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkObject(t, s, w.Key(), want)
	checkNothingElse(t, b, w.Key())
}

// TestLongOutage: once a request has failed for as long as patience lasts, others fail at once, until one succeeds.
func TestLongOutage(t *testing.T) {
	t.Parallel()
	server := service.NewS3(t)
	o := optionsOf(server.Bucket(t))
	o.Patience = 300 * time.Millisecond
	var made, again atomic.Int64
	o.Observe = func(ob Observation) {
		made.Add(1)
		if ob.Retried {
			again.Add(1)
		}
	}
	s := openStore(t, o)
	w := create(t, s)
	write(t, w, []byte("bytes"))
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	stat := func(want error) {
		t.Helper()
		if _, err := s.Stat(t.Context(), w.Key()); !errors.Is(err, want) {
			t.Fatalf("Stat: %v", err)
		}
	}
	stat(blob.ErrUnavailable)
	if again.Load() == 0 {
		t.Error("the first request was not made again")
	}
	for range 3 {
		made.Store(0)
		again.Store(0)
		stat(blob.ErrUnavailable)
		if made.Load() != 1 || again.Load() != 0 {
			t.Errorf("in the outage, %d requests were made, %d of them again", made.Load(), again.Load())
		}
	}
	server.Start(t)
	stat(nil)
	server.Stop()
	stat(blob.ErrUnavailable)
	if again.Load() == 0 {
		t.Error("after the outage, a request was not made again")
	}
}
