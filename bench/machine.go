//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthregistry/berth/bench/report"
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

// machine describes where dir is.
func machine(dir string) (report.Machine, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return report.Machine{}, fmt.Errorf("sysinfo: %w", err)
	}
	return report.Machine{
		Processor:  field("/proc/cpuinfo", "model name"),
		Cores:      runtime.NumCPU(),
		MemoryMiB:  int64(info.Totalram) * int64(info.Unit) >> 20,
		Kernel:     line("/proc/sys/kernel/osrelease"),
		FileSystem: fileSystem(dir),
		Congestion: line("/proc/sys/net/ipv4/tcp_congestion_control"),
	}, nil
}

// field returns the first value of a name in a file of "name : value" lines, or "unknown".
func field(file, name string) string {
	content, _ := os.ReadFile(file)
	for l := range strings.Lines(string(content)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func line(file string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(content))
}

// fileSystem names the type of the file system that dir is on: that of the longest mount point above it.
func fileSystem(dir string) string {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	best, name, device := "", "unknown", ""
	for l := range strings.Lines(string(mounts)) {
		f := strings.Fields(l) // device, mount point, type, …
		if len(f) < 3 {
			continue
		}
		at := f[1]
		inside := at == "/" || dir == at || strings.HasPrefix(dir, at+"/")
		if inside && len(at) >= len(best) {
			best, name, device = at, f[2], filepath.Base(f[0])
		}
	}
	if journals, _ := filepath.Glob("/proc/fs/jbd2/" + device + "-*"); name == "ext4" && len(journals) == 0 {
		return "ext4 without a journal" // where a sync is cheaper than usual
	}
	return name
}
