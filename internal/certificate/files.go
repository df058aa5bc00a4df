package certificate

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
)

// maxFile is the largest file that is read, in bytes.
const maxFile = 1 << 20

// files are what a value is made of that is replaced when they change. They may only be used by one goroutine at a time.
type files[T any] struct {
	paths []string
	parse func(contents [][]byte) (T, error)

	value  T                 // of the last contents that could be used
	seen   [sha256.Size]byte // stands for the last contents, be they of use or not
	failed bool              // the last contents could not be used
}

// read tells whether there is a new value. What cannot be used is an error once, until it changes.
func (f *files[T]) read() (changed bool, err error) {
	var contents [][]byte
	h := sha256.New()
	for _, path := range f.paths {
		content, failed := readFile(path)
		if failed != nil {
			err = failed
		}
		contents = append(contents, content)
		fmt.Fprintf(h, "%d %v\n%s", len(content), failed, content)
	}
	seen := [sha256.Size]byte(h.Sum(nil))
	if seen == f.seen {
		return false, nil
	}
	f.seen = seen
	var value T
	if err == nil {
		value, err = f.parse(contents)
	}
	if f.failed = err != nil; f.failed {
		return false, describe(f.paths, err)
	}
	f.value = value
	return true, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		return nil, fmt.Errorf("%s has more than 1 MiB", path)
	}
	return b, err
}
