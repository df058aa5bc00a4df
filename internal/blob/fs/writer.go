package fs

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/berthregistry/berth/internal/blob"
)

// writeBack is how many bytes are written before the kernel is told to bring them
// to the disk, so that the sync at the end has little left to do.
const writeBack = 8 << 20

var (
	// errLost is what a Writer answers after an error.
	errLost = errors.New("an earlier write or sync of this upload failed")
	// errNameLost: the kernel reports a failure to one who syncs a folder; another
	// one's sync may then succeed without the names that are lost.
	errNameLost = errors.New("the sync of a folder failed since the upload began")
)

// writer is a blob.Writer on a file.
type writer struct {
	store     *Store
	file      *os.File // nil once closed
	key, path string
	size      int64
	flushed   int64       // write-back was started for the bytes before this
	named     bool        // the file's name is durable
	failures  int64       // what Store.failures was before the file was made
	lost      atomic.Bool // a write or a sync failed; a checkpoint may set it beside Write
	ended     bool
}

func (w *writer) Key() string { return w.key }

func (w *writer) Size() int64 { return w.size }

func (w *writer) Write(p []byte) (int, error) {
	if err := w.usable(); err != nil {
		return 0, wrap("write object", w.key, err)
	}
	n, err := w.write(p)
	w.size += int64(n)
	if err != nil {
		w.lost.Store(true)
		return n, wrap("write object", w.key, err)
	}
	if w.size-w.flushed >= writeBack {
		startWriteBack(w.file, w.flushed, w.size-w.flushed)
		w.flushed = w.size
	}
	return n, nil
}

func (w *writer) write(p []byte) (int, error) {
	if err := w.store.space.take(int64(len(p))); err != nil {
		return 0, err
	}
	return w.store.sys.write(w.file, p)
}

func (w *writer) Checkpoint() func(context.Context) (blob.State, error) {
	state := blob.State{Key: w.key, Size: w.size}
	return func(context.Context) (blob.State, error) {
		if err := w.syncFile(); err != nil {
			return blob.State{}, wrap("checkpoint upload", w.key, err)
		}
		if err := w.syncName(); err != nil {
			return blob.State{}, wrap("checkpoint upload", w.key, err)
		}
		return state, nil
	}
}

func (w *writer) Suspend(ctx context.Context) (blob.State, error) {
	defer w.Close()
	return w.Checkpoint()(ctx)
}

func (w *writer) Commit(context.Context) error {
	if err := w.commit(); err != nil {
		w.Abort()
		return wrap("commit object", w.key, err)
	}
	w.ended = true
	return nil
}

func (w *writer) commit() error {
	fileErr, nameErr := w.store.sys.together(func() error {
		if err := w.syncFile(); err != nil {
			return err
		}
		// A network file system may report only now that the disk is full.
		return w.closeFile()
	}, w.syncName)
	return cmp.Or(fileErr, nameErr)
}

// Abort removes the file even after a Commit that failed, but never after one that did not.
func (w *writer) Abort() {
	if w.ended {
		return
	}
	w.Close()
	_ = w.store.sys.unlink(w.path)
}

func (w *writer) Close() {
	if w.ended {
		return
	}
	w.ended = true
	if w.file != nil {
		_ = w.closeFile()
	}
}

func (w *writer) closeFile() error {
	f := w.file
	w.file = nil
	return w.store.sys.close(f)
}

func (w *writer) syncFile() error {
	if err := w.usable(); err != nil {
		return err
	}
	if err := w.store.sys.sync(w.file); err != nil {
		w.lost.Store(true)
		return err
	}
	return nil
}

func (w *writer) syncName() error {
	if w.named {
		return nil
	}
	err := w.store.syncDirTogether(filepath.Dir(w.path))
	if err == nil && w.store.failures.Load() != w.failures {
		err = errNameLost
	}
	if err != nil {
		w.lost.Store(true)
		return err
	}
	w.named = true
	return nil
}

// usable returns nil if the Writer has neither ended nor failed.
func (w *writer) usable() error {
	switch {
	case w.ended:
		return os.ErrClosed
	case w.lost.Load():
		return errLost
	}
	return nil
}
