package report

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Here describes this machine, and the file system that dir is on.
func Here(dir string) (Machine, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Machine{}, fmt.Errorf("sysinfo: %w", err)
	}
	return Machine{
		Processor:  field("/proc/cpuinfo", "model name"),
		Cores:      runtime.NumCPU(),
		MemoryMiB:  int64(info.Totalram) * int64(info.Unit) >> 20,
		Kernel:     line("/proc/sys/kernel/osrelease"),
		FileSystem: fileSystem(dir),
		Congestion: line("/proc/sys/net/ipv4/tcp_congestion_control"),
	}, nil
}

// Note says when and where something was measured, and by the load average of the last minute how busy the machine was, what was measured included. dir is
// on the file system that was used.
func Note(dir string) (string, error) {
	m, err := Here(dir)
	load, _, _ := strings.Cut(line("/proc/loadavg"), " ")
	return fmt.Sprintf("Measured on %s: %s; load average %s.", time.Now().Format("2 January 2006"), m, load), err
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
