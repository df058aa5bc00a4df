package journal

import (
	"bytes"
	"compress/gzip"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/meta"
)

// FuzzDecode: whatever is in a part, decode neither panics nor lets a record through that could not have been written.
func FuzzDecode(f *testing.F) {
	digest := "sha256:" + strings.Repeat("a", 64)
	good := []meta.JournalRecord{
		{Change: 1, Kind: meta.JournalRepository, RepositoryID: 1, Repository: "a/b", At: 5},
		{Change: 2, Kind: meta.JournalLink, RepositoryID: 1, Repository: "a/b", Ref: digest, Size: 3, Key: "20260102/03/X"},
		{Change: 3, Kind: meta.JournalManifest, RepositoryID: 1, Repository: "a/b", Ref: digest, ID: 1, MediaType: "a/b", Text: "{\"ä\u2028<&\":1}\n"},
		{Change: 4, Kind: meta.JournalManifest, RepositoryID: 1, Repository: "a/b", Ref: digest, ID: 2, MediaType: "a/b", Body: []byte("\xff\x00")},
		{Change: 5, Kind: meta.JournalMove, RepositoryID: 1, Repository: "a/b", Ref: "7", Tag: "latest", Digest: digest, Old: digest},
		{Kind: meta.JournalTag, RepositoryID: 1, Repository: "a/b", Ref: "latest", Digest: digest},
		{Change: 6, Kind: meta.JournalLink, RepositoryID: 1, Ref: digest, Gone: true},
	}
	data, err := encode(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte{})
	var got []meta.JournalRecord
	if err := decode(data, func(r meta.JournalRecord) error { got = append(got, r); return nil }); err != nil {
		f.Fatal(err)
	}
	if !slices.EqualFunc(got, good, func(a, b meta.JournalRecord) bool {
		return string(a.Content()) == string(b.Content()) && a.Kind == b.Kind && a.Ref == b.Ref && a.Change == b.Change && a.Digest == b.Digest && a.Gone == b.Gone
	}) {
		f.Fatalf("%+v came back as %+v", good, got)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = decode(data, func(r meta.JournalRecord) error {
			if r.RepositoryID <= 0 || r.Change < 0 || !r.Gone && r.Repository == "" {
				t.Errorf("%+v", r)
			}
			return nil
		})
		// The same as lines, which a fuzzer reaches more easily.
		lines, err := compress(data)
		if err != nil {
			t.Fatal(err)
		}
		_ = decode(lines, func(r meta.JournalRecord) error {
			if r.RepositoryID <= 0 || r.Change < 0 || !r.Gone && r.Repository == "" {
				t.Errorf("%+v", r)
			}
			return nil
		})
	})
}

// FuzzParsePart: names are either those of Berth or left alone.
func FuzzParsePart(f *testing.F) {
	for _, name := range []string{checkpointName(3), changesName(1, 1<<60), epochPrefix(2) + completeName, "journal/", "journal/00000001-changes--x.jsonl.gz"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		p, ok := parsePart(name, 0)
		if ok && (p.epoch < 1 || p.last < 0 || !strings.HasPrefix(name, epochPrefix(p.epoch))) {
			t.Errorf("%q is %+v", name, p)
		}
	})
}

func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(data)
	err = errors.Join(err, z.Close())
	return out.Bytes(), err
}
