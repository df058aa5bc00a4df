package backup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A folder that a process left goes when the next is made; one that is used stays.
func TestMakeTemp(t *testing.T) {
	parent := t.TempDir()
	left := filepath.Join(parent, tempPrefix+"left")
	must(t, os.Mkdir(left, 0o700))
	must(t, os.WriteFile(filepath.Join(left, tempLock), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(left, "work.db"), []byte("x"), 0o600))
	foreign := filepath.Join(parent, tempPrefix+"foreign")
	must(t, os.Mkdir(foreign, 0o700))
	used, remove, err := MakeTemp(parent)
	must(t, err)
	again, removeAgain, err := MakeTemp(parent)
	must(t, err)
	for _, dir := range []string{used, again, foreign} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	must(t, remove())
	must(t, removeAgain())
	for _, dir := range []string{left, used, again} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", dir, err)
		}
	}
}
