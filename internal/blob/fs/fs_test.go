package fs_test

import (
	"testing"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/blobtest"
	"github.com/berthregistry/berth/internal/blob/fs"
)

func TestStore(t *testing.T) {
	for name, keep := range keepOpen {
		t.Run(name, func(t *testing.T) { blobtest.Test(t, place(keep)) })
	}
}

func TestLeaks(t *testing.T) {
	for name, keep := range keepOpen {
		t.Run(name, func(t *testing.T) { blobtest.TestLeaks(t, place(keep)) })
	}
}

var keepOpen = map[string]int{"KeepNone": 0, "KeepOpen": 3}

func place(keep int) blobtest.Place {
	return func(t *testing.T) func() blob.Store {
		dir := t.TempDir()
		return func() blob.Store {
			s, err := fs.Open(dir, fs.Options{Reserve: 1 << 20, KeepOpen: keep})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			return s
		}
	}
}
