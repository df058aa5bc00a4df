package blob_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/oci"
)

// TestHashTornObject hashes an object of which fewer bytes come than it has.
func TestHashTornObject(t *testing.T) {
	s := newStore(t)
	u := blob.NewUpload(create(t, s), oci.SHA256)
	if _, err := u.ReadFrom(t.Context(), strings.NewReader("torn")); err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := blob.HashObject(t.Context(), tornStore{s}, u.Key(), oci.SHA256); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("HashObject: %v", err)
	}
}

// tornStore cuts the last byte off while an object is read.
type tornStore struct{ *fs.Store }

func (s tornStore) Open(ctx context.Context, key string) (blob.Reader, error) {
	r, err := s.Store.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	return tornReader{r, io.LimitReader(r, r.Size()-1)}, nil
}

type tornReader struct {
	blob.Reader
	part io.Reader
}

func (r tornReader) Read(p []byte) (int, error) { return r.part.Read(p) }
