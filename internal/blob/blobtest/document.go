package blobtest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

func documents(t *testing.T, s blob.Store, prefix string) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	for d, err := range s.Documents(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("Documents of %q: %v", prefix, err)
		}
		if _, twice := found[d.Name]; twice {
			t.Errorf("Documents of %q yields %s twice", prefix, d.Name)
		}
		found[d.Name] = d.Size
	}
	return found
}

func testDocuments(t *testing.T, open func() blob.Store) {
	s := open()
	ctx := t.Context()
	if got := documents(t, s, ""); len(got) != 0 {
		t.Errorf("Documents of an empty store yields %v", got)
	}
	if got := documents(t, s, "journal/"); len(got) != 0 {
		t.Errorf("Documents of an empty store yields %v", got)
	}
	key := put(t, s, []byte("an object"))
	want := map[string][]byte{}
	for i, name := range []string{"journal/00000001/a.jsonl.gz", "journal/00000001/b", "journal/00000002/a", "journal/begin", "journals", "sets/x"} {
		want[name] = content(uint64(i), []int{0, 1, 32 << 10, 32<<10 + 1, 544<<10 + 1, 9 << 20}[i])
	}
	for name, data := range want {
		for _, data := range [][]byte{[]byte("what was there before"), data} {
			if err := s.PutDocument(ctx, name, data); err != nil {
				t.Fatalf("PutDocument %s: %v", name, err)
			}
		}
	}
	s = open()
	for name, data := range want {
		if got, err := s.Document(ctx, name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("Document %s: %d bytes, %v; want %d", name, len(got), err, len(data))
		}
	}
	for prefix, n := range map[string]int{"": 6, "journal/": 4, "journal/00000001/": 2, "sets/": 1, "nothing/": 0, "journal/0000/": 0} {
		got := documents(t, s, prefix)
		if len(got) != n {
			t.Errorf("Documents of %q yields %q, want %d", prefix, slices.Sorted(maps.Keys(got)), n)
		}
		for name, size := range got {
			if !strings.HasPrefix(name, prefix) || size != int64(len(want[name])) {
				t.Errorf("Documents of %q yields %s of %d bytes, want %d", prefix, name, size, len(want[name]))
			}
		}
	}
	if keys := list(t, s); !slices.Equal(keys, []string{key}) {
		t.Errorf("List yields %q beside documents, want %s", keys, key)
	}
	for range 2 { // a delete is repeated after a crash
		if err := s.DeleteDocument(ctx, "journal/00000001/b"); err != nil {
			t.Errorf("DeleteDocument: %v", err)
		}
	}
	if _, err := s.Document(ctx, "journal/00000001/b"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Document that was deleted: %v", err)
	}
	for name := range want {
		if err := s.DeleteDocument(ctx, name); err != nil {
			t.Errorf("DeleteDocument: %v", err)
		}
	}
	if got := documents(t, s, ""); len(got) != 0 {
		t.Errorf("Documents yields %v after all are deleted", got)
	}
	checkObject(t, s, key, []byte("an object"))
	for _, name := range []string{"", ".", "/a", "a/", "../a", "a/../b", "a//b", ".document", "20260102/03/X", "a\x00b"} {
		if err := s.PutDocument(ctx, name, nil); err == nil {
			t.Errorf("PutDocument takes the name %q", name)
		}
		if _, err := s.Document(ctx, name); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Document of the name %q: %v", name, err)
		}
	}
}

func testDocumentsStop(t *testing.T, open func() blob.Store) {
	s := open()
	for _, name := range []string{"a", "b", "c"} {
		if err := s.PutDocument(t.Context(), name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for _, err := range s.Documents(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("Documents yielded %d entries before the loop was left", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, last = range s.Documents(ctx, "") {
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("Documents with an ended context: %v", last)
	}
	if got := list(t, s); len(got) != 0 {
		t.Errorf("List yields documents: %q", got)
	}
	if keys := listBetween(t, s, time.Time{}, time.Now()); len(keys) != 0 {
		t.Errorf("List yields documents: %q", keys)
	}
}
