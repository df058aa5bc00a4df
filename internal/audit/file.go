package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// File is a Receiver: entries are added to a file, one on each line. It is opened for each batch by its name, so whoever rotates files may
// rename it, or copy and truncate it, and need not tell anybody.
type File struct{ Path string }

// Name implements Receiver.
func (*File) Name() string { return "file" }

// Check tells what is wrong with the file, if anything: it makes it if need be.
func (f *File) Check() error {
	file, _, err := f.open()
	if err != nil {
		return err
	}
	return file.Close()
}

func (f *File) open() (file *os.File, size int64, err error) {
	// A pipe or a device is not opened, which might wait for ever.
	if info, err := os.Stat(f.Path); err == nil && !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", f.Path)
	}
	file, err = os.OpenFile(f.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// Send implements Receiver. The entries are durable when it returns.
func (f *File) Send(_ context.Context, entries []Entry) (err error) {
	file, size, err := f.open()
	if err != nil {
		return err
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = closed
		}
	}()
	var b []byte
	if size > 0 {
		// What was cut off when the machine failed or the disk was full must not spoil the first line.
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			b = append(b, '\n')
		}
	}
	for i := range entries {
		b = append(append(b, line(&entries[i])...), '\n')
	}
	if _, err := file.Write(b); err != nil {
		return err
	}
	if err := file.Sync(); err != nil || size > 0 {
		return err
	}
	// The name of a new file must be durable, too.
	dir, err := os.Open(filepath.Dir(f.Path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
