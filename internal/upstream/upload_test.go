package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	godigest "github.com/opencontainers/go-digest"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

// random returns a blob of n bytes, and an Upload of it whose progress is summed up.
func random(t testing.TB, n int) (harness.Blob, Upload, *atomic.Int64) {
	b := harness.NewBlob("application/octet-stream", harness.Random(n))
	sent := new(atomic.Int64)
	return b, Upload{Desc: desc(t, b), Open: bytesOf(b.Bytes), Progress: func(n int64) { sent.Add(n) }}, sent
}

// has fails the test unless the shared registry has exactly b.
func has(t testing.TB, name string, b harness.Blob) {
	t.Helper()
	if got := api(t).Expect(http.StatusOK, "GET", "/v2/"+name+"/blobs/"+b.Digest.String(), nil); !bytes.Equal(got.Bytes, b.Bytes) {
		t.Errorf("%s has other bytes of %s", name, b.Digest)
	}
}

func TestUpload(t *testing.T) {
	tap := harness.NewTap(t, addr(t))
	for _, size := range []int{0, 1, smallBlob, smallBlob + 1, 5 << 20} {
		name := fmt.Sprintf("upload/%d", size)
		b, up, sent := random(t, size)
		mounted, err := at(t, tap.Addr, name).PutBlob(t.Context(), up)
		if err != nil || mounted {
			t.Fatalf("%d bytes: mounted %t, %v", size, mounted, err)
		}
		has(t, name, b)
		if sent.Load() != int64(size) {
			t.Errorf("%d bytes: the progress ends at %d", size, sent.Load())
		}
		patches := len(only(tap.Exchanges("/v2/"+name+"/"), "PATCH"))
		if want := min(size/(smallBlob+1), 1); patches != want {
			t.Errorf("%d bytes: sent with %d PATCH requests, expected %d", size, patches, want)
		}
	}
}

func TestUploadGoesOnWhereItBrokeOff(t *testing.T) {
	tap := harness.NewTap(t, addr(t))
	b, up, sent := random(t, 16<<20)
	tap.CutUpload(10 << 20)
	if _, err := at(t, tap.Addr, "cutup").PutBlob(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	has(t, "cutup", b)
	if tap.Cuts() != 1 || sent.Load() != 16<<20 {
		t.Errorf("%d cuts, the progress ends at %d", tap.Cuts(), sent.Load())
	}
	patches := only(tap.Exchanges("/v2/cutup/"), "PATCH")
	var from, to int64
	if len(patches) == 2 {
		fmt.Sscanf(patches[1].Header.Get("Content-Range"), "%d-%d", &from, &to)
	}
	if from < 1<<20 || to != 16<<20-1 {
		t.Errorf("%d PATCH requests, the last from %d to %d: expected the second to send the rest", len(patches), from, to)
	}
}

// Docker's registry does not know where it stands after a broken PATCH.
func TestUploadSessionLost(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable} {
		name := fmt.Sprintf("lost/%d", status)
		lost := ""
		s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if lost == "" && r.Method == http.MethodPatch {
				lost = r.URL.Path
				io.CopyN(io.Discard, r.Body, 1<<20)
				panic(http.ErrAbortHandler)
			}
			if r.URL.Path == lost {
				w.WriteHeader(status)
				return
			}
			next.ServeHTTP(w, r)
		})
		b, up, sent := random(t, 3<<20)
		if _, err := at(t, host(s), name).PutBlob(t.Context(), up); err != nil {
			t.Fatal(err)
		}
		has(t, name, b)
		if lost == "" || sent.Load() != 3<<20 {
			t.Errorf("lost %q, the progress ends at %d", lost, sent.Load())
		}
	}
}

func TestAnswerToClosingPutLost(t *testing.T) {
	for _, size := range []int{1000, 3 << 20} {
		name := fmt.Sprintf("answerlost/%d", size)
		var puts, patches int
		s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			switch r.Method {
			case http.MethodPatch:
				patches++
			case http.MethodPut:
				puts++
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
		b, up, sent := random(t, size)
		if _, err := at(t, host(s), name).PutBlob(t.Context(), up); err != nil {
			t.Fatal(err)
		}
		has(t, name, b)
		if patches > 1 || sent.Load() != int64(size) {
			t.Errorf("%d PATCH and %d PUT requests, the progress ends at %d", patches, puts, sent.Load())
		}
	}
}

// Amazon ECR answers the last PATCH with 201 and refuses the PUT that should follow.
func TestUploadToECR(t *testing.T) {
	b, up, _ := random(t, 3<<20)
	puts := 0
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch r.Method {
		case http.MethodPatch:
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			put := httptest.NewRequestWithContext(r.Context(), http.MethodPut, harness.WithDigest(rec.Header().Get("Location"), b.Digest.String()), nil)
			next.ServeHTTP(httptest.NewRecorder(), put)
			w.WriteHeader(http.StatusCreated)
		case http.MethodPut:
			puts++
			w.WriteHeader(http.StatusBadRequest)
		default:
			next.ServeHTTP(w, r)
		}
	})
	if _, err := at(t, host(s), "ecr").PutBlob(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	has(t, "ecr", b)
	if puts != 0 {
		t.Errorf("%d PUT requests", puts)
	}
}

// What another attempt can't mend is tried once, and the session is cancelled.
func TestUploadRefused(t *testing.T) {
	for _, status := range []int{http.StatusForbidden, http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage} {
		var patches, deletes atomic.Int32
		s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			switch r.Method {
			case http.MethodPatch:
				patches.Add(1)
				w.WriteHeader(status)
				return
			case http.MethodDelete:
				deletes.Add(1)
			}
			next.ServeHTTP(w, r)
		})
		_, up, _ := random(t, 3<<20)
		_, err := at(t, host(s), "refused").PutBlob(t.Context(), up)
		var answer *Error
		if !errors.As(err, &answer) || answer.Status != status {
			t.Errorf("%d: got %v", status, err)
		}
		if patches.Load() != 1 || deletes.Load() != 1 {
			t.Errorf("%d: %d PATCH and %d DELETE requests", status, patches.Load(), deletes.Load())
		}
	}
}

func TestUploadOfWrongContent(t *testing.T) {
	for _, size := range []int{1000, 3 << 20} {
		tap := harness.NewTap(t, addr(t))
		b, up, _ := random(t, size)
		up.Open = bytesOf(harness.Random(size))
		name := fmt.Sprintf("wrongupload/%d", size)
		_, err := at(t, tap.Addr, name).PutBlob(t.Context(), up)
		var wrong *wrongContent
		if !errors.As(err, &wrong) {
			t.Errorf("got %v", err)
		}
		seen := tap.Exchanges("/v2/" + name + "/")
		if n := len(only(seen, "PUT")); n != 0 {
			t.Errorf("the registry was asked to accept %s", b.Digest)
		}
		if n := len(only(seen, "DELETE")); n != 1 {
			t.Errorf("%d DELETE requests, expected the session to be cancelled", n)
		}
	}
}

func TestUploadWhoseSourceFails(t *testing.T) {
	broken := errors.New("the source is broken")
	for _, size := range []int{1000, 3 << 20} {
		tap := harness.NewTap(t, addr(t))
		_, up, _ := random(t, size)
		up.Open = func(context.Context, int64) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, size/2)), failing{broken})), nil
		}
		if _, err := at(t, tap.Addr, "sourcefails").PutBlob(t.Context(), up); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if n := len(only(tap.Exchanges("/v2/sourcefails/"), "POST")); n != 1 {
			t.Errorf("%d attempts", n)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestUploadCancelled(t *testing.T) {
	tap := harness.NewTap(t, addr(t))
	ctx, cancel := context.WithCancel(t.Context())
	b, up, _ := random(t, 3<<20)
	up.Open = func(ctx context.Context, _ int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b.Bytes[:1<<20]), readFunc(func() error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}))), nil
	}
	_, err := at(t, tap.Addr, "cancelled").PutBlob(ctx, up)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	deletes := only(tap.Exchanges("/v2/cancelled/"), "DELETE")
	if len(deletes) != 1 || deletes[0].Status != http.StatusNoContent {
		t.Errorf("DELETE requests %v, expected the session to be cancelled", deletes)
	}
}

type readFunc func() error

func (f readFunc) Read([]byte) (int, error) { return 0, f() }

func TestMount(t *testing.T) {
	b, up, _ := random(t, 3<<20)
	api(t).PushBlob("mount/from", b)
	tap := harness.NewTap(t, addr(t))
	up.Mount = "mount/from"
	if mounted, err := at(t, tap.Addr, "mount/to").PutBlob(t.Context(), up); err != nil || !mounted {
		t.Errorf("mounted %t, %v", mounted, err)
	}
	has(t, "mount/to", b)
	if seen := only(tap.Exchanges("/v2/mount/to/"), "PATCH", "PUT"); len(seen) != 0 {
		t.Errorf("bytes were sent: %v", seen)
	}
}

// Where the other repository does not have the blob, or must not be read, it is sent.
func TestMountThatIsNotPossible(t *testing.T) {
	b, up, _ := random(t, 3<<20)
	up.Mount = "mount/nowhere"
	if mounted, err := at(t, addr(t), "mount/to2").PutBlob(t.Context(), up); err != nil || mounted {
		t.Errorf("mounted %t, %v", mounted, err)
	}
	has(t, "mount/to2", b)

	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Query().Get("mount") != "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
	if mounted, err := at(t, host(s), "mount/to3").PutBlob(t.Context(), up); err != nil || mounted {
		t.Errorf("refused: mounted %t, %v", mounted, err)
	}
	has(t, "mount/to3", b)
}

func TestSHA512(t *testing.T) {
	content := harness.Random(3 << 20)
	b := harness.Blob{Bytes: content}
	b.Digest, b.Size = godigest.SHA512.FromBytes(content), int64(len(content))
	repo := at(t, addr(t), "sha512")
	if _, err := repo.PutBlob(t.Context(), Upload{Desc: desc(t, b), Open: bytesOf(content)}); err != nil {
		t.Fatal(err)
	}
	has(t, "sha512", b)

	body := harness.NewImage("amd64", nil)
	for _, blob := range body.Blobs {
		api(t).PushBlob("sha512", blob)
	}
	m := Manifest{MediaType: body.Manifest.MediaType, Digest: oci.DigestBytes(oci.SHA512, body.Manifest.Bytes), Body: body.Manifest.Bytes}
	if err := repo.PutManifest(t.Context(), m, "tagged"); err != nil {
		t.Fatal(err)
	}
	got, err := repo.Resolve(t.Context(), tagRef("tagged"))
	if err != nil || got.Digest != m.Digest {
		t.Errorf("the tag leads to %s, %v", got.Digest, err)
	}
	if got, err := repo.Manifest(t.Context(), digestRef(m.Digest)); err != nil || !bytes.Equal(got.Body, m.Body) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTagOfSHA512NotPossible(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.URL.RawQuery = ""
		next.ServeHTTP(w, r)
	})
	body := harness.NewImage("amd64", nil)
	for _, blob := range body.Blobs {
		api(t).PushBlob("sha512old", blob)
	}
	m := Manifest{MediaType: body.Manifest.MediaType, Digest: oci.DigestBytes(oci.SHA512, body.Manifest.Bytes), Body: body.Manifest.Bytes}
	err := at(t, host(s), "sha512old").PutManifest(t.Context(), m, "tagged")
	if err == nil || !strings.Contains(err.Error(), "can't give a tag") {
		t.Errorf("got %v", err)
	}
}

func TestParseUploadRange(t *testing.T) {
	for s, want := range map[string]int64{
		"0-0": 0, "0--1": 0, "0-99": 100, "bytes=0-99": 100,
		"": -1, "5-10": -1, "0-": -1, "0-x": -1, "0--2": -1, "99": -1,
	} {
		got, ok := parseUploadRange(s)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("parseUploadRange(%q) = %d, %t, expected %d", s, got, ok, want)
		}
	}
}
