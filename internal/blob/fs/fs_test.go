package fs_test

import (
	"testing"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/blobtest"
	"github.com/berthregistry/berth/internal/blob/fs"
)

func TestStore(t *testing.T) {
	for name, keep := range map[string]int{"KeepNone": 0, "KeepOpen": 3} {
		t.Run(name, func(t *testing.T) {
			blobtest.Test(t, func(t *testing.T) func() blob.Store {
				dir := t.TempDir()
				return func() blob.Store {
					s, err := fs.Open(dir, fs.Options{Reserve: 1 << 20, KeepOpen: keep})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(s.Close)
					return s
				}
			})
		})
	}
}
