package meta

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// A full disk is told as such, costs nothing that was acknowledged, and nothing once there is room again.
// The disk is a small one in memory that only a process of this test sees.
func TestSQLiteFullDisk(t *testing.T) {
	if dir := os.Getenv(childVariable); dir != "" {
		if err := syscall.Mount("none", dir, "tmpfs", 0, "size=4m"); err != nil {
			t.Fatal(err)
		}
		for fill := range 5 {
			fillDisk(t, filepath.Join(dir, fmt.Sprint(fill)), 1<<(9+2*fill))
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSQLiteFullDisk$", "-test.count=1", "-test.v="+fmt.Sprint(testing.Verbose()))
	cmd.Env = append(os.Environ(), childVariable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("a mount of its own is not allowed here: %v", err)
		}
		t.Skipf("a mount of its own is not allowed here: %v", err)
	}
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// fillDisk fills the disk with manifests of a size, makes room, and goes on.
func fillDisk(t *testing.T, dir string, size int) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ballast, path := filepath.Join(dir, "ballast"), filepath.Join(dir, "berth.db")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	commit(t, db, "a", digestOf("blob"), at(0))
	pad := make([]byte, size)
	for i := range pad {
		pad[i] = 'x'
	}
	there := make(map[oci.Digest]bool)
	push := func(i int) error {
		n := document{seed: i, blobs: []oci.Digest{digestOf("blob")}, notes: map[string]string{"pad": string(pad)}}.
			build(t, "a", at(int64(i)), oci.Tag(fmt.Sprint("t", i)))
		_, err := db.PutManifest(t.Context(), n)
		if there[n.Digest] && err != nil {
			t.Errorf("manifest %d was there: %v", i, err)
		}
		there[n.Digest] = err == nil
		return err
	}
	i := 0
	for ; ; i++ {
		if err = push(i); err != nil {
			break
		}
	}
	if !IsFull(err) {
		t.Errorf("with %d manifests of %d bytes the disk is full, but the error is: %v", i, size, err)
	}
	for range 3 {
		if err := push(i); !IsFull(err) {
			t.Errorf("again: %v", err)
		}
	}
	check := func(db *DB) {
		for d, want := range there {
			m, err := db.Manifest(t.Context(), "a", byDigest(d), true)
			if want && (err != nil || oci.DigestBytes(oci.SHA256, m.Body) != d) || !want && err != ErrNotFound {
				t.Errorf("manifest %s was acknowledged: %v; it reads as %v", d, want, err)
			}
		}
		if n := count(t, db, "tag"); n != count(t, db, "manifest") {
			t.Errorf("%d tags", n)
		}
	}
	check(db) // reads go on
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := push(i); err != nil {
			t.Errorf("with room again: %v", err)
		}
		i++
	}
	check(db)
	audit(t, db)
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	db, err = Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(db)
	audit(t, db)
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d manifests of %d bytes fill the disk", len(there)-3, size)
}
