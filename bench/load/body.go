//go:build linux

package load

import (
	"fmt"
	"io"
	"math/rand/v2"

	"golang.org/x/sys/unix"
)

// Fill is a block of random bytes that bodies of any length are cut from by
// repeating it. It lies in memory as a file, so that large bodies are sent by
// sendfile, without a copy by the client.
type Fill struct {
	fd   int
	data []byte // the file, mapped
}

// Random returns n bytes that no compression shortens, the same ones for the same seed.
func Random(n int, seed uint8) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data) // never fails
	return data
}

// NewFill returns a block that holds a copy of data.
func NewFill(data []byte) (*Fill, error) {
	fd, err := unix.MemfdCreate("fill", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	for rest := data; len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("write a memory file: %w", err)
		}
		rest = rest[n:]
	}
	mapped, err := unix.Mmap(fd, 0, len(data), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map a memory file: %w", err)
	}
	return &Fill{fd: fd, data: mapped}, nil
}

// Close frees the block. No request may use it any more.
func (f *Fill) Close() error {
	err := unix.Munmap(f.data)
	if cerr := unix.Close(f.fd); err == nil {
		err = cerr
	}
	return err
}

// Body is what a request carries: Prefix, then N bytes of Fill, repeated from its
// beginning as often as needed, then Suffix. The zero Body is empty.
type Body struct {
	Prefix []byte
	Fill   *Fill
	N      int64
	Suffix []byte
}

// Len returns the number of bytes.
func (b Body) Len() int64 { return int64(len(b.Prefix)) + b.N + int64(len(b.Suffix)) }

// WriteTo implements io.WriterTo.
func (b Body) WriteTo(w io.Writer) (int64, error) {
	total := int64(0)
	write := func(p []byte) error {
		n, err := w.Write(p)
		total += int64(n)
		return err
	}
	if err := write(b.Prefix); err != nil {
		return total, err
	}
	for rest := b.N; rest > 0; {
		p := b.Fill.data[:min(rest, int64(len(b.Fill.data)))]
		if err := write(p); err != nil {
			return total, err
		}
		rest -= int64(len(p))
	}
	return total, write(b.Suffix)
}
