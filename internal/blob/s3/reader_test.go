package s3

import (
	"bytes"
	"io"
	"testing"

	"github.com/berthregistry/berth/test/service"
)

// TestOpenRange reads a range by one request, and whatever else of the object by more.
func TestOpenRange(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	s := openStore(t, p.options(b))
	want := content(1, 3<<20)
	key := put(t, s, want)
	for _, test := range []struct {
		offset, n int64
		asked     string
	}{
		{1_000_000, 500_000, "bytes=1000000-1499999"},
		{0, 10, "bytes=0-9"},
		{3<<20 - 1, 1, "bytes=3145727-3145727"},
		{3<<20 - 10, 100, "bytes=3145718-3145817"}, // beyond the end
	} {
		p.setFault(nil)
		r, err := s.OpenRange(t.Context(), key, test.offset, test.n)
		if err != nil {
			t.Fatal(err)
		}
		if r.Size() != 3<<20 {
			t.Errorf("%s: the size is %d", test.asked, r.Size())
		}
		end := min(test.offset+test.n, 3<<20)
		got := make([]byte, end-test.offset)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want[test.offset:end]) {
			t.Errorf("%s: %v", test.asked, err)
		}
		if gets := p.all("get object"); len(gets) != 1 || gets[0].header.Get("Range") != test.asked {
			t.Errorf("%s: %d requests, the first %v", test.asked, len(gets), gets[0].header)
		}
		if rest, err := io.ReadAll(r); err != nil || !bytes.Equal(rest, want[end:]) {
			t.Errorf("%s: %d bytes follow, %v", test.asked, len(rest), err)
		}
		if _, err := r.Seek(1, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(r); err != nil || !bytes.Equal(all, want[1:]) {
			t.Errorf("%s: %d bytes from the first on, %v", test.asked, len(all), err)
		}
		r.Close()
	}
	if r, err := s.OpenRange(t.Context(), key, 3<<20, 1); err == nil {
		t.Errorf("a range behind the end: %d bytes", r.Size())
	}
}

// A range that breaks off is gone on with.
func TestRangeBreaks(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	s := openStore(t, p.options(b))
	want := content(1, 3<<20)
	key := put(t, s, want)
	p.setFault(func(op string, n int) fault {
		if n == 1 {
			return fault{gives: 100_000}
		}
		return fault{}
	})
	r, err := s.OpenRange(t.Context(), key, 1000, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, 1<<20)
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want[1000:1000+1<<20]) {
		t.Error(err)
	}
}
