package fs

import (
	"io"
	"os"
)

// reader is a blob.Reader on a file that other readers may share.
type reader struct {
	*io.SectionReader
	store *Store
	open  *openFile // nil once closed
	path  string
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.open == nil {
		return os.ErrClosed
	}
	f := r.open
	r.open = nil
	return r.store.open.release(f)
}

// Shared returns the open file and the offset in it of what is read next. Others read it as well, so
// only calls that are given an offset may be made.
func (r *reader) Shared() (f *os.File, offset int64) {
	offset, _ = r.Seek(0, io.SeekCurrent) // which cannot fail
	return r.open.file, offset
}

// Own opens the file once more, at the offset of what is read next.
func (r *reader) Own() (*os.File, error) {
	_, offset := r.Shared()
	f, err := r.store.sys.open(r.path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
