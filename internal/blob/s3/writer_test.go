package s3

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/test/service"
)

// TestMemory sends 300 MiB to a store that is slower than the client, and looks at what the upload holds.
func TestMemory(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	p.rate = 20 << 20 // of each connection
	s := openStore(t, p.options(b))
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // so that pools let go what nobody uses
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	small := create(t, s)
	write(t, small, make([]byte, 2<<10))
	if n := s.chunks.live.Load(); n > smallChunk {
		t.Errorf("an upload of 2 KiB holds %d bytes", n)
	}
	small.Abort()
	if n := s.chunks.live.Load(); n != 0 {
		t.Errorf("an upload that was aborted holds %d bytes", n)
	}
	w := create(t, s)
	piece := content(1, 256<<10)
	before, most, held := heap(), int64(0), int64(0)
	for i := range 1200 {
		if i%400 == 399 {
			persist := w.Checkpoint()
			write(t, w, piece[:100_000])
			if _, err := persist(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		write(t, w, piece)
		held = max(held, s.chunks.live.Load())
		if i%100 == 99 {
			most = max(most, heap()-before)
		}
	}
	commit(t, w)
	t.Logf("chunks of %d bytes, a heap larger by %d bytes", held, most)
	if held > 50<<20 {
		t.Errorf("an upload holds chunks of %d bytes", held)
	}
	if held < 30<<20 {
		t.Errorf("an upload holds chunks of %d bytes only: the store was not slow enough to show anything", held)
	}
	if most > 64<<20 {
		t.Errorf("an upload makes the heap larger by %d bytes", most)
	}
	if n := s.chunks.live.Load(); n != 0 {
		t.Errorf("an upload that has ended holds %d bytes", n)
	}
}

// TestSpool has parts that are too large for memory.
func TestSpool(t *testing.T) { overServers(t, testSpool) }

func testSpool(t *testing.T, program string) {
	o := optionsOf(service.S3Of(t, program))
	o.TempDir = t.TempDir()
	o.PartSize = 40 << 20
	s := openStore(t, o)
	want := content(1, 100<<20)
	w := create(t, s)
	write(t, w, want[:50<<20])
	persist := w.Checkpoint()
	write(t, w, want[50<<20:70<<20])
	if _, err := persist(t.Context()); err != nil {
		t.Fatal(err)
	}
	state := suspend(t, w)
	w = resume(t, s, state)
	write(t, w, want[70<<20:])
	if n := s.chunks.live.Load(); n != 0 {
		t.Errorf("%d bytes are in memory", n)
	}
	if files, err := os.ReadDir(o.TempDir); len(files) > 0 || err != nil {
		t.Errorf("files %v, %v", files, err)
	}
	commit(t, w)
	checkObject(t, s, w.Key(), want)

	o.TempDir = filepath.Join(t.TempDir(), "missing")
	s = openStore(t, o)
	w = create(t, s)
	if _, err := w.Write(want[:1]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Write without a folder for temporary files: %v", err)
	}
	w.Abort()
}

// TestChunks suspends an upload after each piece, as clients that send many small chunks make it. What is left
// behind on the way does not grow.
func TestChunks(t *testing.T) {
	for name, most := range map[string]int{"small": 30 << 10, "larger": 3 << 20} {
		t.Run(name, func(t *testing.T) {
			b := service.S3(t)
			nodes := [2]*Store{openStore(t, optionsOf(b)), openStore(t, optionsOf(b))}
			want := content(1, 26<<20)
			w := create(t, nodes[0])
			before := w.Key()
			// drop deletes what was kept under another key before, as the caller does.
			drop := func() {
				if before == w.Key() {
					return
				}
				if err := nodes[0].Delete(t.Context(), before); err != nil {
					t.Fatal(err)
				}
				before = w.Key()
			}
			at := 0
			if most < 1<<20 {
				at = 15<<20 - 7
				write(t, w, want[:at])
				want = want[:17<<20]
			}
			for i := 0; at < len(want); i++ {
				n := min(rand.IntN(most)+1, len(want)-at)
				write(t, w, want[at:at+n])
				at += n
				state := suspend(t, w)
				if len(state.Data) > maxInline+4<<10 {
					t.Fatalf("a state of %d bytes", len(state.Data))
				}
				w = resume(t, nodes[i%2], state)
				drop()
				tails := 0
				for o, err := range nodes[0].objects(t.Context(), w.Key()+tailMark, "") {
					if err != nil {
						t.Fatal(err)
					}
					tails += int(o.size)
				}
				if tails > 2*minPart+most {
					t.Fatalf("tails of %d bytes", tails)
				}
			}
			commit(t, w)
			drop()
			checkObject(t, nodes[0], w.Key(), want)
			checkNothingElse(t, b, w.Key())
		})
	}
}

// TestSameState goes on from a state more than once, and each time but the last is lost after it has
// sent other bytes under the same part numbers.
func TestSameState(t *testing.T) { overServers(t, testSameState) }

func testSameState(t *testing.T, program string) {
	b := service.S3Of(t, program)
	s := openStore(t, optionsOf(b))
	want := content(1, 9<<20)
	for name, more := range map[string]int{"without more": 0, "with more": 9 << 20} {
		t.Run(name, func(t *testing.T) {
			w := create(t, s)
			write(t, w, want)
			state := suspend(t, w)
			for i := range 2 {
				w = resume(t, s, state)
				write(t, w, content(byte(10+i), 20<<20))
				if _, err := w.Checkpoint()(t.Context()); err != nil {
					t.Fatal(err)
				}
				write(t, w, content(byte(10+i), 10<<20))
				w.Close()
			}
			w = resume(t, s, state)
			write(t, w, want[:more])
			commit(t, w)
			checkObject(t, s, w.Key(), slices.Concat(want, want[:more]))
			checkNothingElse(t, b, w.Key())
			if err := s.Delete(t.Context(), w.Key()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestStateLost takes away, or changes, what a state needs.
func TestStateLost(t *testing.T) { overServers(t, testStateLost) }

func testStateLost(t *testing.T, program string) {
	b := service.S3Of(t, program)
	s := openStore(t, optionsOf(b))
	w := create(t, s)
	write(t, w, content(1, 1000))
	state := suspend(t, w)
	if _, err := s.put(t.Context(), w.Key(), section{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(t.Context(), state); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Resume with too few bytes: %v", err)
	}
	w = create(t, s)
	write(t, w, content(1, 1000))
	state = suspend(t, w)
	if _, err := s.client.PutObject(t.Context(), b.Name, w.Key(), bytes.NewReader(content(2, 1000)), 1000, "", "", s.options(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(t.Context(), state); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Resume with other bytes: %v", err)
	}
	for _, tail := range []func(name string) error{
		func(name string) error { return s.remove(t.Context(), name) },
		func(name string) error { _, err := s.put(t.Context(), name, section{}); return err },
	} {
		w = create(t, s)
		write(t, w, content(1, 9<<20))
		state = suspend(t, w)
		for o := range s.objects(t.Context(), w.Key()+tailMark, "") {
			if err := tail(o.name); err != nil {
				t.Fatal(err)
			}
		}
		w = resume(t, s, state)
		if _, err := w.Write([]byte("x")); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Write without the tail: %v", err)
		}
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("Write after an error succeeded")
		}
		if err := w.Commit(t.Context()); err == nil {
			t.Error("Commit after an error succeeded")
		}
		// The last part has the bytes as well, if no more are to come.
		commit(t, resume(t, s, state))
		checkObject(t, s, w.Key(), content(1, 9<<20))
	}
	state.Data[0]++
	if _, err := s.Resume(t.Context(), state); err == nil || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Resume of a state of another version: %v", err)
	}
}

// TestDiedAfterCommit has a node die when the object was made and nobody has heard of it: another one ends the upload.
func TestDiedAfterCommit(t *testing.T) { overServers(t, testDiedAfterCommit) }

func testDiedAfterCommit(t *testing.T, program string) {
	b := service.S3Of(t, program)
	nodes := [2]*Store{openStore(t, optionsOf(b)), openStore(t, optionsOf(b))}
	for _, size := range []int{0, 1000, 9 << 20, 16 << 20} {
		want := content(1, size)
		w := create(t, nodes[0])
		write(t, w, want)
		state := suspend(t, w)
		commit(t, resume(t, nodes[0], state))
		w = resume(t, nodes[1], state)
		commit(t, w)
		checkObject(t, nodes[1], w.Key(), want)
		if size > 9<<20 {
			// More bytes cannot follow, and nothing is lost by trying.
			w = resume(t, nodes[1], state)
			if _, err := w.Write([]byte("x")); err == nil {
				t.Error("Write to an upload that was completed succeeded")
			}
			w.Close()
			checkObject(t, nodes[1], w.Key(), want)
		}
		if err := nodes[0].Delete(t.Context(), w.Key()); err != nil {
			t.Fatal(err)
		}
	}
	checkNothingElse(t, b)
}

// TestTwoCommits has two nodes end the same upload at the same time, as when a balancer sends the request again. Some stores
// know nothing any more of an upload that was completed.
func TestTwoCommits(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	nodes := [2]*Store{openStore(t, optionsOf(b)), openStore(t, p.options(b))}
	p.setFault(func(op string, _ int) fault {
		if op == "complete upload" {
			return fault{status: 404, code: "NoSuchUpload"}
		}
		return fault{}
	})
	want := content(1, 12<<20)
	w := create(t, nodes[0])
	write(t, w, want)
	state := suspend(t, w)
	first, second := resume(t, nodes[0], state), resume(t, nodes[1], state)
	commit(t, first)
	commit(t, second)
	checkObject(t, nodes[0], state.Key, want)
	checkNothingElse(t, b, state.Key)
}

// TestLeftovers looks at what nodes that died leave: it is listed once under its key, and Delete removes all of it.
func TestLeftovers(t *testing.T) {
	b := service.S3(t)
	for _, prefix := range []string{"", "a prefix/"} {
		o := optionsOf(b)
		o.Prefix = prefix
		s := openStore(t, o)
		sizes := map[string]int64{}
		for i := range 3 {
			sizes[put(t, s, content(byte(i), i*1000))] = int64(i * 1000)
			// An object under one key, a multipart upload and a tail under another one.
			w := create(t, s)
			write(t, w, content(byte(i), 1000))
			sizes[w.Key()] = 1000
			w = resume(t, s, suspend(t, w))
			write(t, w, content(byte(i), 9<<20))
			suspend(t, w)
			sizes[w.Key()] = -1
			// A multipart upload, and a tail.
			w = create(t, s)
			write(t, w, content(byte(i), 9<<20))
			if _, err := w.Checkpoint()(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.Close()
			sizes[w.Key()] = -1
			// Several multipart uploads only.
			w = create(t, s)
			for range i + 1 {
				if _, err := s.client.NewMultipartUpload(t.Context(), b.Name, prefix+w.Key(), s.options(nil)); err != nil {
					t.Fatal(err)
				}
			}
			w.Close()
			sizes[w.Key()] = -1
		}
		// What others have in the bucket.
		for _, name := range []string{prefix + "x", prefix + "20261121/17/short", "other/20261121/17/" + strings.Repeat("A", 26), prefix + "99991231/23/x"} {
			if _, err := s.put(t.Context(), name, section{}); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[string]bool{}
		for info, err := range s.List(t.Context(), time.Time{}, time.Time{}) {
			if err != nil {
				t.Fatal(err)
			}
			want, ok := sizes[info.Key]
			if !ok || seen[info.Key] || want >= 0 && info.Size != want {
				t.Errorf("List yields %+v; %d, %v, before %v", info, want, ok, seen[info.Key])
			}
			seen[info.Key] = true
			// As the check of uploads does, which knows of those it has states of.
			if _, err := s.Stat(t.Context(), info.Key); err != nil {
				t.Errorf("Stat: %v", err)
			}
		}
		if len(seen) != len(sizes) {
			t.Errorf("List yields %d of %d keys", len(seen), len(sizes))
		}
		if n, err := s.Unfinished(t.Context()); n != 0 || err != nil {
			t.Errorf("Unfinished = %d, %v", n, err)
		}
		s.now = func() time.Time { return time.Now().Add(25 * time.Hour) }
		if n, err := s.Unfinished(t.Context()); n != 3+3+1+2+3 || err != nil {
			t.Errorf("Unfinished a day later = %d, %v", n, err)
		}
		for key := range sizes {
			if err := s.Delete(t.Context(), key); err != nil {
				t.Errorf("Delete: %v", err)
			}
		}
		for _, name := range []string{"x", "20261121/17/short", "99991231/23/x"} {
			if err := s.Delete(t.Context(), name); err != nil {
				t.Errorf("Delete of what another made: %v", err)
			}
		}
		if err := s.remove(t.Context(), "other/20261121/17/"+strings.Repeat("A", 26)); err != nil {
			t.Fatal(err)
		}
		checkNothingElse(t, b)
	}
}

// TestPages lists more than a page of objects and of uploads.
func TestPages(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 2,300 objects")
	}
	b := service.S3(t)
	s := openStore(t, optionsOf(b))
	want := map[string]bool{}
	for i := range 2300 {
		key := blob.NewKey([]string{"20260101/05", "20260101/06", "20260301/00"}[i%3])
		want[key] = true
		if i < 1200 {
			if _, err := s.put(t.Context(), key, section{}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if _, err := s.client.NewMultipartUpload(t.Context(), b.Name, key, s.options(nil)); err != nil {
			t.Fatal(err)
		}
	}
	hour := func(text string) time.Time {
		at, err := time.Parse(blob.HourLayout, text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for _, test := range []struct{ from, to time.Time }{
		{},
		{from: hour("20260101/06")},
		{to: hour("20260101/06")},
		{hour("20260101/05"), hour("20260101/06")},
		{hour("20260102/00"), hour("20260301/00")},
		{hour("20260102/00"), hour("20260301/01")},
	} {
		got := map[string]bool{}
		for info, err := range s.List(t.Context(), test.from, test.to) {
			if err != nil {
				t.Fatal(err)
			}
			if got[info.Key] {
				t.Errorf("%s is listed twice", info.Key)
			}
			got[info.Key] = true
		}
		for key := range want {
			at, _ := blob.KeyHour(key)
			if in := !at.Before(test.from) && (test.to.IsZero() || at.Before(test.to)); in != got[key] {
				t.Fatalf("List from %v to %v: %s is listed: %v, want %v", test.from, test.to, key, got[key], in)
			}
		}
	}
}

// TestRanges reads from all over a large object.
func TestRanges(t *testing.T) { overServers(t, testRanges) }

func testRanges(t *testing.T, program string) {
	s := openStore(t, optionsOf(service.S3Of(t, program)))
	want := content(1, 20<<20)
	r, err := s.Open(t.Context(), put(t, s, want))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 40 {
		at := rand.IntN(len(want))
		n := min(rand.IntN(300_000)+1, len(want)-at)
		if _, err := r.Seek(int64(at), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, n)
		if _, err := io.ReadFull(r, got); err != nil || !slices.Equal(got, want[at:at+n]) {
			t.Fatalf("%d bytes from %d on: %v", n, at, err)
		}
	}
}

// TestHeaders looks at how objects are asked to be kept. Some S3 servers know nothing of encryption, so that
// the proxy takes the headers away.
func TestHeaders(t *testing.T) {
	b := service.S3(t)
	const prefix = "X-Amz-Server-Side-Encryption"
	for name, test := range map[string]struct {
		change func(*Options)
		want   map[string]string
	}{
		"nothing": {func(*Options) {}, map[string]string{prefix: "", "X-Amz-Storage-Class": ""}},
		"s3":      {func(o *Options) { o.Encryption = EncryptionS3 }, map[string]string{prefix: "AES256"}},
		"kms": {func(o *Options) { o.Encryption, o.KMSKey = EncryptionKMS, "arn:key" },
			map[string]string{prefix: "aws:kms", prefix + "-Aws-Kms-Key-Id": "arn:key"}},
		"kms of the bucket": {func(o *Options) { o.Encryption = EncryptionKMS }, map[string]string{prefix: "aws:kms", prefix + "-Aws-Kms-Key-Id": ""}},
		"class":             {func(o *Options) { o.StorageClass = "STANDARD" }, map[string]string{"X-Amz-Storage-Class": "STANDARD"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, b)
			o := p.options(b)
			test.change(&o)
			s := openStore(t, o)
			w := create(t, s)
			write(t, w, []byte("x"))
			_ = w.Commit(t.Context()) // the server may refuse
			w = create(t, s)
			write(t, w, make([]byte, 9<<20))
			_ = w.Commit(t.Context())
			for _, op := range []string{"put object", "begin upload"} {
				all := p.all(op)
				if len(all) == 0 {
					t.Fatalf("no request to %s", op)
				}
				for k, v := range test.want {
					if got := all[0].header.Get(k); got != v {
						t.Errorf("%s has %s: %q, want %q", op, k, got, v)
					}
				}
			}
			for _, op := range []string{"put part", "complete upload"} {
				for _, r := range p.all(op) {
					if r.header.Get("X-Amz-Storage-Class") != "" || r.header.Get(prefix) != "" {
						t.Errorf("%s has headers of objects: %v", op, r.header)
					}
				}
			}
		})
	}
}

// TestURL fetches an object as a client does that was sent to it.
func TestURL(t *testing.T) {
	b := service.S3(t)
	public := newProxy(t, b)
	o := optionsOf(b)
	o.PublicEndpoint, o.Prefix = public.URL, "a b/"
	s := openStore(t, o)
	key := put(t, s, []byte("hello, world"))
	get := func(u, ranges string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ranges != "" {
			r.Header.Set("Range", ranges)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	u, err := s.URL(t.Context(), key, time.Minute)
	if err != nil || !strings.HasPrefix(u, public.URL+"/"+b.Name+"/a%20b/2") {
		t.Fatalf("URL: %s, %v", u, err)
	}
	if strings.Contains(u, service.S3SecretKey) {
		t.Error("the address tells a secret")
	}
	if status, body := get(u, ""); status != http.StatusOK || body != "hello, world" {
		t.Errorf("GET: %d, %q", status, body)
	}
	if status, body := get(u, "bytes=7-9"); status != http.StatusPartialContent || body != "wor" {
		t.Errorf("GET of a range: %d, %q", status, body)
	}
	if status, body := get(strings.Replace(u, key[:5], "20000", 1), ""); status != http.StatusForbidden {
		t.Errorf("GET of another object: %d, %q", status, body)
	}
	if u, err = s.URL(t.Context(), key, 0); err != nil { // a second
		t.Fatal(err)
	}
	time.Sleep(2100 * time.Millisecond)
	if status, body := get(u, ""); status != http.StatusForbidden {
		t.Errorf("GET after the time is over: %d, %q", status, body)
	}
	if _, err := s.URL(t.Context(), "../x", time.Minute); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("URL of what is no key: %v", err)
	}
}

// TestEndpoints looks at where requests would go. Nothing is asked, not even while the store is opened.
func TestEndpoints(t *testing.T) {
	for name, test := range map[string]struct {
		o    Options
		want string // what addresses begin with
	}{
		"AWS":         {Options{Region: "eu-central-1"}, "https://registry.s3.dualstack.eu-central-1.amazonaws.com/key?"},
		"AWS default": {Options{}, "https://registry.s3.dualstack.us-east-1.amazonaws.com/key?"},
		"AWS China":   {Options{Region: "cn-north-1"}, "https://registry.s3.dualstack.cn-north-1.amazonaws.com.cn/key?"},
		"AWS, path":   {Options{Region: "eu-central-1", PathStyle: PathStyleOn}, "https://s3.dualstack.eu-central-1.amazonaws.com/registry/key?"},
		"another":     {Options{Endpoint: "https://s3.example.org:9000/"}, "https://s3.example.org:9000/registry/key?"},
		"another DNS": {Options{Endpoint: "https://s3.example.org", PathStyle: PathStyleOff}, "https://registry.s3.example.org/key?"},
		"public":      {Options{Endpoint: "http://10.0.0.1:9000", PublicEndpoint: "https://s3.example.org", Prefix: "p/"}, "https://s3.example.org/registry/p/key?"},
		"Google":      {Options{Endpoint: "https://storage.googleapis.com", Region: "auto"}, "https://registry.storage.googleapis.com/key?"},
	} {
		t.Run(name, func(t *testing.T) {
			test.o.Bucket, test.o.AccessKeyID, test.o.SecretAccessKey = "registry", "id", "secret"
			s := openStore(t, test.o)
			u, err := s.URL(t.Context(), "key", time.Hour)
			if err != nil || !strings.HasPrefix(u, test.want) {
				t.Errorf("URL: %s, %v; want %s", u, err, test.want)
			}
		})
	}
	for name, o := range map[string]Options{
		"no bucket":  {},
		"bad bucket": {Bucket: "A bucket"},
		"endpoint":   {Bucket: "registry", Endpoint: "s3.example.org"},
		"path":       {Bucket: "registry", Endpoint: "https://s3.example.org/registry"},
		"scheme":     {Bucket: "registry", Endpoint: "ftp://s3.example.org"},
		"public":     {Bucket: "registry", PublicEndpoint: "example.org"},
		"small part": {Bucket: "registry", PartSize: 1 << 20},
		"CA":         {Bucket: "registry", CAFile: "/nonexistent"},
		"bad CA":     {Bucket: "registry", CAFile: writeFile(t, "x")},
	} {
		if _, err := Open(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestTrust reaches a store whose certificate is known from a file only.
func TestTrust(t *testing.T) {
	b := service.S3(t)
	p := newTLSProxy(t, b)
	o := p.options(b)
	o.Patience = 100 * time.Millisecond
	s := openStore(t, o)
	if err := s.Check(t.Context()); !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Check without trust: %v", err)
	}
	if n := p.seen(); n != "" {
		t.Errorf("there were requests: %s", n)
	}
	o.CAFile = writeFile(t, p.certificate())
	s = openStore(t, o)
	want := content(1, 9<<20)
	checkObject(t, s, put(t, s, want), want)
}

// TestObserve looks at what is told of requests.
func TestObserve(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	o := p.options(b)
	var all []Observation
	o.Observe = func(ob Observation) { all = append(all, ob) }
	s := openStore(t, o)
	p.setFault(func(_ string, n int) fault {
		if n == 1 {
			return fault{status: 503}
		}
		return fault{}
	})
	put(t, s, []byte("x"))
	if _, err := s.Open(t.Context(), "missing"); !errors.Is(err, blob.ErrNotFound) {
		t.Fatal(err)
	}
	var got []string
	for _, ob := range all {
		text := ob.Operation
		if ob.Err != nil {
			text += " failed"
		}
		if ob.Retried {
			text += " retried"
		}
		if ob.Duration <= 0 {
			text += " in no time"
		}
		got = append(got, text)
	}
	want := "put object failed retried, put object, get object failed retried, get object"
	if strings.Join(got, ", ") != want {
		t.Errorf("observed %q, want %s", got, want)
	}
}
