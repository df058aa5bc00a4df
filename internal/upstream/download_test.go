package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

func digestRef(d oci.Digest) oci.Reference { return oci.Reference{Digest: d} }

func TestDownloadGoesOnWhereItBrokeOff(t *testing.T) {
	b := harness.NewBlob("application/octet-stream", harness.Random(8<<20))
	api(t).PushBlob("cutdown", b)
	tap := harness.NewTap(t, addr(t))
	repo := at(t, tap.Addr, "cutdown")
	tap.CutDownload(3 << 20)
	r, err := repo.Blob(t.Context(), desc(t, b), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, b.Bytes) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if tap.Cuts() != 1 {
		t.Fatal("the connection was not cut")
	}
	var ranges []string
	for _, e := range tap.Exchanges("/v2/cutdown/blobs/") {
		ranges = append(ranges, e.Header.Get("Range"))
	}
	var from int64
	if len(ranges) == 2 {
		fmt.Sscanf(ranges[1], "bytes=%d-", &from)
	}
	if len(ranges) != 2 || ranges[0] != "" || from < 2<<20 {
		t.Errorf("ranges %q, expected a second request for the rest", ranges)
	}
}

func TestDownloadFromRegistryWithoutRanges(t *testing.T) {
	b := harness.NewBlob("application/octet-stream", harness.Random(4<<20))
	api(t).PushBlob("noranges", b)
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	})
	tap := harness.NewTap(t, host(s))
	tap.CutDownload(2 << 20)
	got, err := at(t, tap.Addr, "noranges").BlobBytes(t.Context(), desc(t, b), 8<<20)
	if err != nil || !bytes.Equal(got, b.Bytes) || tap.Cuts() != 1 {
		t.Errorf("%d bytes, %d cuts, %v", len(got), tap.Cuts(), err)
	}
}

func TestDownloadFromOffset(t *testing.T) {
	b := harness.NewBlob("application/octet-stream", harness.Random(1000))
	api(t).PushBlob("offset", b)
	repo := at(t, addr(t), "offset")
	for _, offset := range []int64{0, 1, 999, 1000} {
		r, err := repo.Blob(t.Context(), desc(t, b), offset)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, b.Bytes[offset:]) {
			t.Errorf("from %d: %d bytes, %v", offset, len(got), err)
		}
	}
	for _, offset := range []int64{-1, 1001} {
		if _, err := repo.Blob(t.Context(), desc(t, b), offset); err == nil {
			t.Errorf("from %d: expected an error", offset)
		}
	}
}

func TestDownloadOfWrongContent(t *testing.T) {
	b := harness.NewBlob("application/octet-stream", harness.Random(1000))
	api(t).PushBlob("wrong", b)
	for name, change := range map[string]func(http.ResponseWriter){
		"another": func(w http.ResponseWriter) { w.Write(make([]byte, 1000)) },
		"longer":  func(w http.ResponseWriter) { w.(http.Flusher).Flush(); w.Write(make([]byte, 1001)) },
		"shorter": func(w http.ResponseWriter) { w.Write(make([]byte, 999)) },
	} {
		s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) { change(w) })
		if got, err := at(t, host(s), "wrong").BlobBytes(t.Context(), desc(t, b), 2000); err == nil {
			t.Errorf("%s: got %d bytes and no error", name, len(got))
		}
	}
	if _, err := at(t, addr(t), "wrong").BlobBytes(t.Context(), desc(t, b), 999); err == nil {
		t.Error("over the limit: expected an error")
	}
}

func TestDownloadGivesUp(t *testing.T) {
	t.Parallel()
	b := harness.NewBlob("application/octet-stream", harness.Random(100_000))
	var requests atomic.Int32
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if requests.Add(1) == 1 {
			w.Header().Set("Content-Length", "100000")
			w.Write(b.Bytes[:50_000])
			w.(http.Flusher).Flush()
		}
		panic(http.ErrAbortHandler)
	})
	r, err := at(t, host(s), "givesup").Blob(t.Context(), desc(t, b), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err == nil || len(got) != 50_000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, again := r.Read(make([]byte, 1)); again == nil || again == io.EOF {
		t.Errorf("the Reader goes on after its error: %v", again)
	}
}

// What a registry says for good is not asked for again.
func TestDownloadOfBlobThatGoesAway(t *testing.T) {
	b := harness.NewBlob("application/octet-stream", harness.Random(100_000))
	var requests atomic.Int32
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if requests.Add(1) > 1 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Length", "100000")
		w.Write(b.Bytes[:50_000])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	_, err := at(t, host(s), "goesaway").BlobBytes(t.Context(), desc(t, b), 1<<20)
	if !errors.Is(err, ErrNotFound) || requests.Load() != 2 {
		t.Errorf("%d requests, %v", requests.Load(), err)
	}
	if err != nil && !strings.Contains(err.Error(), host(s)+"/goesaway: get blob") {
		t.Errorf("the error does not say what failed: %v", err)
	}
}
