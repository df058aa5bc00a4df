//go:build linux

package scenario

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ballast is memory that is held between the runs of pushes and let go during them, so that the
// page cache grows into memory that was in use a moment ago.
//
// Virtual machines give memory that is free for some seconds back to their host, and pay for each page that they
// take into use again: here that makes the first write of a file four times as slow as
// the second one, and whoever is measured first pays for all.
type ballast struct{ mem []byte }

// newBallast takes size bytes into use, or none if the machine has not four times as much.
func newBallast(size int64) (*ballast, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("sysinfo: %w", err)
	}
	if int64(info.Freeram+info.Bufferram)*int64(info.Unit) < 4*size {
		return &ballast{}, nil
	}
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	unix.Madvise(mem, unix.MADV_HUGEPAGE) // only makes it faster
	return &ballast{mem}, nil
}

// hold takes the memory into use.
func (b *ballast) hold() error {
	if b.mem == nil {
		return nil
	}
	err := unix.Madvise(b.mem, unix.MADV_POPULATE_WRITE)
	if errors.Is(err, unix.EINVAL) { // before Linux 5.14
		for i := 0; i < len(b.mem); i += 4096 {
			b.mem[i] = 1
		}
		return nil
	}
	return err
}

// release lets the memory go, until hold.
func (b *ballast) release() error {
	if b.mem == nil {
		return nil
	}
	return unix.Madvise(b.mem, unix.MADV_DONTNEED)
}

func (b *ballast) close() error {
	if b.mem == nil {
		return nil
	}
	return unix.Munmap(b.mem)
}
