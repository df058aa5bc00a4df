//go:build linux

package hostile

import (
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// smallDisk returns a folder for a server whose data folder is a disk of its own.
func smallDisk(t *testing.T, size string) (dir string) {
	t.Helper()
	harness.NeedRoot(t)
	dir = t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(data, 0); err != nil {
			t.Error(err)
			syscall.Unmount(data, syscall.MNT_DETACH)
		}
	})
	return dir
}

// fill leaves so many bytes of the disk free, and returns what makes room again.
func fill(t *testing.T, dir string, leave int64) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "data", "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir+"/data", &st); err != nil {
			t.Fatal(err)
		}
		if int64(st.Bavail)*st.Bsize <= leave {
			break
		}
		if _, err := f.Write(block); err != nil {
			break
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// refuses fails the test unless pushes of every kind get a 507 and pulls go on.
func refuses(t *testing.T, api *harness.API, stored harness.Image, manifests bool) {
	t.Helper()
	b := octets(harness.Random(1 << 20))
	full := func(resp *harness.Response) {
		t.Helper()
		wantFailure(t, resp, http.StatusInsufficientStorage, "UNKNOWN")
	}
	full(api.Do("POST", "/v2/full/app/blobs/uploads/?digest="+b.Digest.String(), b.Bytes))
	location := api.StartUpload("full/app")
	full(api.Do("PATCH", location, b.Bytes))
	full(api.Do("PUT", harness.WithDigest(location, b.Digest.String()), b.Bytes))
	if manifests {
		m := harness.Pack(v1.Manifest{Annotations: map[string]string{"x": string(make([]byte, 60_000))}}, stored.Blobs...)
		full(api.Do("PUT", "/v2/full/app/manifests/new", m.Manifest.Bytes, harness.Header{"Content-Type": v1.MediaTypeImageManifest}))
	}
	api.Expect(404, "HEAD", "/v2/full/app/blobs/"+b.Digest.String(), nil)
	api.Expect(200, "GET", "/v2/full/app/manifests/stored", nil)
	for _, b := range stored.Blobs {
		api.Expect(200, "GET", "/v2/full/app/blobs/"+b.Digest.String(), nil)
	}
	if tags := api.Tags("full/app"); len(tags) != 1 {
		t.Errorf("the tags are %v", tags)
	}
}

func storedImage() harness.Image {
	return harness.Pack(v1.Manifest{}, octets(harness.Random(100)), octets(harness.Random(1<<20)))
}

func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, "48m")
	s := startIn(t, dir, "BERTH_DISK_RESERVE=0")
	api := harness.NewAPI(t, s)
	stored := storedImage()
	api.PushImage("full/app", "stored", stored)

	// Full in the middle of a blob.
	free := fill(t, dir, 600<<10)
	refuses(t, api, stored, false)
	free()
	works(t, api, "full/between")

	// Full to the last byte, for the database too.
	free = fill(t, dir, 0)
	refuses(t, api, stored, true)
	free()
	works(t, api, "full/after")
	b := octets(harness.Random(20 << 20)) // the broken uploads have left nothing
	api.PushBlob("full/after", b)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if r, found := check(t, dir, "--deep"); r.Damaged != 0 {
		t.Errorf("fsck finds %+v", found)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	works(t, api, "full/after")
}

// A session that the full disk has stopped goes on when there is room.
func TestFullDiskResume(t *testing.T) {
	dir := smallDisk(t, "48m")
	s := startIn(t, dir, "BERTH_DISK_RESERVE=0")
	api := harness.NewAPI(t, s)
	b := octets(harness.Random(4 << 20))
	location := api.StartUpload("full/app")
	api.Expect(202, "PATCH", location, b.Bytes[:2<<20])
	free := fill(t, dir, 100<<10)
	wantFailure(t, api.Do("PATCH", location, b.Bytes[2<<20:]), http.StatusInsufficientStorage, "UNKNOWN")
	wantRange(t, api, location, 2<<20)
	free()
	api.Expect(201, "PUT", harness.WithDigest(location, b.Digest.String()), b.Bytes[2<<20:], harness.Header{"Content-Range": "2097152-4194303"})
	api.Expect(200, "GET", "/v2/full/app/blobs/"+b.Digest.String(), nil)
}

func TestDiskReserve(t *testing.T) {
	dir := smallDisk(t, "64m")
	free := fill(t, dir, 36<<20)
	s := startIn(t, dir, "BERTH_DISK_RESERVE=32MiB")
	api := harness.NewAPI(t, s)
	stored := storedImage()
	api.PushImage("full/app", "stored", stored)
	if !eventually(func() bool {
		b := octets(harness.Random(1 << 20))
		return api.Do("POST", "/v2/full/app/blobs/uploads/?digest="+b.Digest.String(), b.Bytes).StatusCode == http.StatusInsufficientStorage
	}) {
		t.Error("the reserve is used up")
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Join(dir, "data"), &st); err != nil {
		t.Fatal(err)
	}
	if left := int64(st.Bavail) * st.Bsize; left < 31<<20 { // the database takes some, too
		t.Errorf("%d bytes are left of the reserve", left)
	}
	// What is left has no room for a manifest either.
	if !eventually(func() bool {
		b := octets(harness.Random(32 << 10))
		return api.Do("POST", "/v2/full/app/blobs/uploads/?digest="+b.Digest.String(), b.Bytes).StatusCode == http.StatusInsufficientStorage
	}) {
		t.Error("small blobs use up the reserve")
	}
	refuses(t, api, stored, true)
	api.Expect(200, "GET", "/readyz", nil) // for pulls
	free()
	if !eventually(func() bool {
		b := octets(harness.Random(1 << 20))
		return api.Do("POST", "/v2/full/app/blobs/uploads/?digest="+b.Digest.String(), b.Bytes).StatusCode == 201
	}) {
		t.Error("there is room again, but pushes are still refused")
	}
	works(t, api, "full/after")
}

// readOnly makes a file or folder one that nobody can write to, until the function is called.
func readOnly(t *testing.T, path string) (undo func()) {
	t.Helper()
	harness.NeedRoot(t)
	if err := syscall.Mount(path, path, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	done := false
	undo = func() {
		if !done {
			done = true
			if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(undo)
	if err := syscall.Mount("", path, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return undo
}

// With a blob folder that cannot be written, pushes fail and pulls go on.
func TestReadOnlyBlobs(t *testing.T) {
	dir := t.TempDir()
	s := startIn(t, dir)
	api := harness.NewAPI(t, s)
	stored := storedImage()
	api.PushImage("readonly/app", "stored", stored)
	undo := readOnly(t, filepath.Join(dir, "data", "blobs"))
	b := octets(harness.Random(1000))
	wantFailure(t, api.Do("POST", "/v2/readonly/app/blobs/uploads/?digest="+b.Digest.String(), b.Bytes), 500, "UNKNOWN")
	wantFailure(t, api.Do("PATCH", api.StartUpload("readonly/app"), b.Bytes), 500, "UNKNOWN")
	api.Expect(404, "HEAD", "/v2/readonly/app/blobs/"+b.Digest.String(), nil)
	for _, b := range stored.Blobs {
		api.Expect(200, "GET", "/v2/readonly/app/blobs/"+b.Digest.String(), nil)
	}
	api.Expect(http.StatusServiceUnavailable, "GET", "/readyz", nil)
	undo()
	api.Expect(200, "GET", "/readyz", nil)
	works(t, api, "readonly/app")
}

func TestReadOnlyAtStart(t *testing.T) {
	dir := t.TempDir()
	s := startIn(t, dir)
	api := harness.NewAPI(t, s)
	works(t, api, "readonly/app")
	s.Kill()
	undo := readOnly(t, filepath.Join(dir, "data"))
	wantRefusal(t, dir, "read-only file system")
	undo()

	// A database that cannot be written is good for pulls.
	undo = readOnly(t, filepath.Join(dir, "data", "berth.db"))
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	api.Expect(200, "GET", "/v2/readonly/app/manifests/works", nil)
	b := octets(harness.Random(1000))
	wantFailure(t, api.Do("POST", "/v2/readonly/app/blobs/uploads/?digest="+b.Digest.String(), b.Bytes), 500, "UNKNOWN")
	wantFailure(t, api.Do("PATCH", api.StartUpload("readonly/app"), b.Bytes), 500, "UNKNOWN")
	wantFailure(t, api.Do("DELETE", "/v2/readonly/app/manifests/works", nil), 500, "UNKNOWN")
	api.Expect(404, "HEAD", "/v2/readonly/app/blobs/"+b.Digest.String(), nil)
	api.Expect(200, "GET", "/v2/readonly/app/manifests/works", nil)
	s.Kill()
	undo()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	works(t, api, "readonly/app")
}
