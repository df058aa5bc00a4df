package fs

import "os"

// reader is a blob.Reader on a file.
type reader struct {
	file *os.File
	size int64
}

func (r *reader) Read(p []byte) (int, error) { return r.file.Read(p) }

func (r *reader) Seek(offset int64, whence int) (int64, error) { return r.file.Seek(offset, whence) }

func (r *reader) Close() error { return r.file.Close() }

func (r *reader) Size() int64 { return r.size }

// File returns the open file, which the Reader goes on to own. Both share one offset.
func (r *reader) File() *os.File { return r.file }
