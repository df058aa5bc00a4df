package fs

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// hourLayout is the form of an hour's folder. Sorted as text, hours are in order.
const hourLayout = "20060102/15"

// newKey returns a key in the folder of an hour that nobody has seen before: its
// last part holds 130 random bits.
func newKey(hour string) string { return hour + "/" + rand.Text() }

// hourOf returns the start of the hour whose folder has this name.
func hourOf(folder string) (time.Time, bool) {
	t, err := time.Parse(hourLayout, folder)
	return t, err == nil
}

// path returns the path of key's file. It fails with blob.ErrNotFound if key is not a
// clean relative path that stays below the folder.
func (s *Store) path(key string) (string, error) {
	local, err := filepath.Localize(key)
	if err != nil || local == "." {
		return "", fmt.Errorf("%w: invalid key", blob.ErrNotFound)
	}
	return s.dir + string(filepath.Separator) + local, nil
}
