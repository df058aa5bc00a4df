package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// debianTimeout bounds debootstrap, which loads some 50 MB from the mirror.
const debianTimeout = 10 * time.Minute

// DebianRoot returns the path of a tar archive with the root of a minimal Debian: a real
// file system with devices, links, and set-user-id bits. debootstrap makes it once
// and the user's cache directory keeps it.
func DebianRoot(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "berth-test")
	mirror, suite := debianMirror()
	archive := filepath.Join(dir, "debian-"+suite+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive
	}
	NeedRoot(t)
	debootstrap := Need(t, "debootstrap")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("", "berth-debian-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	ctx, cancel := context.WithTimeout(t.Context(), debianTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, debootstrap, "--variant=minbase", suite, root, mirror).CombinedOutput(); err != nil {
		Missing(t, "debootstrap of %s from %s: %v\n%s", suite, mirror, err, out)
	}
	unfinished := fmt.Sprintf("%s.%d", archive, os.Getpid())
	defer os.Remove(unfinished)
	tar := exec.CommandContext(ctx, "tar", "-C", root, "--numeric-owner", "--one-file-system",
		"--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "--exclude=./usr/share/doc/*",
		"--exclude=./usr/share/locale/*", "--exclude=./usr/share/man/*", "-cf", unfinished, ".")
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	if err := os.Rename(unfinished, archive); err != nil {
		t.Fatal(err)
	}
	return archive
}

// debianMirror returns the mirror and the release that apt is configured for, or
// Debian's own where that isn't Debian.
func debianMirror() (mirror, suite string) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT) $(ORIGIN)", "Identifier: Packages").Output()
	if err == nil {
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			if len(f) == 4 && f[2] == "main" && f[3] == "Debian" && !strings.Contains(f[1], "-") {
				return f[0], f[1]
			}
		}
	}
	return "http://deb.debian.org/debian", "stable"
}
