package fs_test

import (
	"testing"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/blobtest"
	"github.com/berthregistry/berth/internal/blob/fs"
)

func TestStore(t *testing.T) {
	blobtest.Test(t, func(t *testing.T) func() blob.Store {
		dir := t.TempDir()
		return func() blob.Store {
			s, err := fs.Open(dir, fs.Options{Reserve: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}
