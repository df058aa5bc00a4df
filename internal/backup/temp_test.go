package backup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthregistry/berth/test/world"
)

// A folder that a process left goes when the next is made; one that is used stays.
func TestMakeTemp(t *testing.T) {
	parent := t.TempDir()
	left := filepath.Join(parent, tempPrefix+"left")
	world.Must(t, os.Mkdir(left, 0o700))
	world.Must(t, os.WriteFile(filepath.Join(left, tempLock), nil, 0o600))
	world.Must(t, os.WriteFile(filepath.Join(left, "work.db"), []byte("x"), 0o600))
	foreign := filepath.Join(parent, tempPrefix+"foreign")
	world.Must(t, os.Mkdir(foreign, 0o700))
	used, remove, err := MakeTemp(parent)
	world.Must(t, err)
	again, removeAgain, err := MakeTemp(parent)
	world.Must(t, err)
	for _, dir := range []string{used, again, foreign} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	world.Must(t, remove())
	world.Must(t, removeAgain())
	for _, dir := range []string{left, used, again} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", dir, err)
		}
	}
}
