package fs

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/berthregistry/berth/internal/blob"
)

// openFiles keeps the files open that were read last: many who pull one image read the same
// few. To open and close a small file costs as much as the rest of the answer.
type openFiles struct {
	sys system
	max int

	mu      sync.Mutex
	kept    *simplelru.LRU[string, *openFile] // by key; nil if none is kept
	deletes uint64                            // counts calls of forget
}

// openFile is a file that readers share. It is closed with its last user.
type openFile struct {
	file  *os.File
	users int // its readers, and one while it is kept; under openFiles.mu
}

func newOpenFiles(sys system, keep int) *openFiles {
	o := &openFiles{sys: sys, max: keep}
	if keep > 0 {
		kept, err := simplelru.NewLRU[string, *openFile](keep, nil)
		if err != nil {
			panic(err) // the size is positive
		}
		o.kept = kept
	}
	return o
}

// acquire returns the file of a key, and its size. Whoever gets it releases it.
func (o *openFiles) acquire(key, path string) (*openFile, int64, error) {
	o.mu.Lock()
	deletes := o.deletes
	var f *openFile
	if o.kept != nil {
		if f, _ = o.kept.Get(key); f != nil {
			f.users++
		}
	}
	o.mu.Unlock()
	if f != nil {
		size, err := fileSize(f.file)
		if err == nil {
			return f, size, nil
		}
		// Somebody else has removed it.
		o.forget(key)
		_ = o.release(f)
		if !errors.Is(err, blob.ErrNotFound) {
			return nil, 0, err
		}
	}
	file, err := o.sys.open(path, os.O_RDONLY)
	if err != nil {
		return nil, 0, err
	}
	size, err := fileSize(file)
	if err != nil {
		_ = o.sys.close(file)
		return nil, 0, err
	}
	f = &openFile{file: file, users: 1}
	o.keep(key, f, deletes)
	return f, size, nil
}

// keep keeps a file, unless an object has been deleted since it was opened: it may be this one, whose space
// would stay in use.
func (o *openFiles) keep(key string, f *openFile, deletes uint64) {
	o.mu.Lock()
	if o.kept == nil || o.deletes != deletes || o.kept.Contains(key) {
		o.mu.Unlock()
		return
	}
	var last *openFile
	if o.kept.Len() == o.max {
		_, last, _ = o.kept.RemoveOldest()
	}
	f.users++
	o.kept.Add(key, f)
	o.mu.Unlock()
	if last != nil {
		_ = o.release(last)
	}
}

// forget keeps a file no longer.
func (o *openFiles) forget(key string) {
	o.mu.Lock()
	o.deletes++
	var f *openFile
	if o.kept != nil {
		if f, _ = o.kept.Peek(key); f != nil {
			o.kept.Remove(key)
		}
	}
	o.mu.Unlock()
	if f != nil {
		_ = o.release(f)
	}
}

// release ends one use.
func (o *openFiles) release(f *openFile) error {
	o.mu.Lock()
	f.users--
	last := f.users == 0
	o.mu.Unlock()
	if !last {
		return nil
	}
	if err := o.sys.close(f.file); err != nil {
		return fmt.Errorf("close object: %w", err)
	}
	return nil
}

// close keeps no file any more.
func (o *openFiles) close() {
	o.mu.Lock()
	var kept []*openFile
	if o.kept != nil {
		kept = o.kept.Values()
		o.kept = nil
	}
	o.mu.Unlock()
	for _, f := range kept {
		_ = o.release(f)
	}
}
