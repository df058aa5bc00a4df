package fs

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// hourOf returns the start of the hour whose folder has this name.
func hourOf(folder string) (time.Time, bool) {
	t, err := time.Parse(blob.HourLayout, folder)
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
