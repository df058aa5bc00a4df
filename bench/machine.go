//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// minFree is what the largest scenarios need at the same time, with room to spare.
const minFree = 12 << 30

// workDir makes a folder for all data inside dir, on a disk that syncing makes sense on.
func workDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", fmt.Errorf("look at %s: %w", dir, err)
	}
	if fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC {
		return "", fmt.Errorf("%s lies in memory, where a sync costs nothing: choose a folder on a disk with --dir", dir)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < minFree {
		return "", fmt.Errorf("%s has %d MiB free, %d are needed: choose another disk with --dir", dir, free>>20, int64(minFree)>>20)
	}
	if err := removeLeftovers(dir); err != nil {
		return "", err
	}
	run := filepath.Join(dir, fmt.Sprintf("run-%d", os.Getpid()))
	return run, os.Mkdir(run, 0o755)
}

// removeLeftovers removes the folders of benchmarks that were killed.
func removeLeftovers(dir string) error {
	runs, err := filepath.Glob(filepath.Join(dir, "run-*"))
	if err != nil {
		return err
	}
	for _, run := range runs {
		_, pid, _ := strings.Cut(filepath.Base(run), "run-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			if err := os.RemoveAll(run); err != nil {
				return err
			}
		}
	}
	return nil
}
