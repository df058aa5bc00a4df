//go:build linux

package hostile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berthregistry/berth/internal/fsck"
	"github.com/berthregistry/berth/test/harness"
)

// objectOf returns the file that holds the bytes.
func objectOf(t *testing.T, dir string, content []byte) string {
	t.Helper()
	for _, path := range objects(t, dir) {
		if b, err := os.ReadFile(path); err == nil && bytes.Equal(b, content) {
			return path
		}
	}
	t.Fatal("no object has the bytes")
	return ""
}

// Bytes that are lost or damaged on the disk never look like the blob. fsck tells of them, a push
// mends them.
func TestDamagedBlobs(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(path string) error
		deep   bool // only fsck --deep finds it
	}{
		"missing":   {os.Remove, false},
		"truncated": {func(p string) error { return os.Truncate(p, 1000) }, false},
		"emptied":   {func(p string) error { return os.Truncate(p, 0) }, false},
		"longer":    {func(p string) error { return os.Truncate(p, 2_000_000) }, false},
		"a folder":  {func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, false},
		"altered": {func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("damage"), 500_000)
				err = errors.Join(err, f.Close())
			}
			return err
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := startIn(t, dir)
			api := harness.NewAPI(t, s)
			b := octets(harness.Random(1_000_000))
			image := harness.Pack(v1Manifest, octets([]byte("{}")), b)
			api.PushImage("damage/app", "1", image)
			if err := test.damage(objectOf(t, dir, b.Bytes)); err != nil {
				t.Fatal(err)
			}
			path := "/v2/damage/app/blobs/" + b.Digest.String()
			if !test.deep {
				for _, header := range []harness.Header{{}, {"Range": "bytes=0-"}, {"Range": "bytes=500-600"}, {"If-None-Match": `"x"`}} {
					if resp, err := api.Try(t.Context(), "GET", path, nil, header); err == nil {
						wantFailure(t, resp, 500, "UNKNOWN")
					}
				}
				api.Expect(404, "HEAD", path, nil) // so that a client pushes it again
			}
			api.Expect(200, "GET", "/v2/damage/app/manifests/1", nil)

			if report, found := check(t, dir); (report.Damaged == 0) != test.deep {
				t.Errorf("fsck finds %+v", found)
			}
			if report, found := check(t, dir, "--deep"); report.Damaged != 1 || !strings.Contains(fmt.Sprint(found), b.Digest.String()) {
				t.Errorf("fsck --deep finds %+v", found)
			}
			if test.deep {
				// The server does not see it, a client does by the digest. After a repair, both do.
				s.Kill()
				if report, found := check(t, dir, "--deep", "--repair"); report.Damaged != 1 {
					t.Errorf("fsck --deep --repair finds %+v", found)
				}
				if err := s.Restart(); err != nil {
					t.Fatal(err)
				}
				api.Expect(404, "HEAD", path, nil)
			}
			api.PushBlob("damage/app", b)
			if got := api.Expect(200, "GET", path, nil).Bytes; !bytes.Equal(got, b.Bytes) {
				t.Error("the blob is not mended")
			}
			s.Kill()
			if report, found := check(t, dir, "--deep", "--repair"); report.Damaged != 0 {
				t.Errorf("fsck finds %+v", found)
			}
			if report, found := check(t, dir, "--deep"); report != (fsck.Report{Blobs: 2, Bytes: 1_000_002, Manifests: 1}) {
				t.Errorf("after the repair, fsck finds %+v, %+v", report, found)
			}
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			api.Expect(200, "GET", path, nil)
		})
	}
}

// A file that becomes shorter while it is sent ends in a broken answer.
func TestTruncatedWhileSent(t *testing.T) {
	dir := t.TempDir()
	s := startIn(t, dir)
	api := harness.NewAPI(t, s)
	b := octets(harness.Random(64 << 20))
	api.PushBlob("damage/app", b)
	for _, header := range []string{"", "Range: bytes=100-\r\n"} {
		c := dial(t, s)
		c.(*net.TCPConn).SetReadBuffer(16 << 10)
		fmt.Fprintf(c, "GET /v2/damage/app/blobs/%s HTTP/1.1\r\nHost: x\r\n%s\r\n", b.Digest, header)
		io.ReadFull(c, make([]byte, 10_000))
		path := objectOf(t, dir, b.Bytes)
		if err := os.Truncate(path, 32<<20); err != nil {
			t.Fatal(err)
		}
		// The connection is cut before all that was promised has come.
		n, err := io.Copy(io.Discard, c)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) || n > 33<<20 {
			t.Errorf("%q: %d bytes, %v", header, n, err)
		}
		if err := os.WriteFile(path, b.Bytes, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A file that the server may not read is a failure of the server, and nothing else is hurt.
func TestUnreadableBlob(t *testing.T) {
	harness.NeedRoot(t) // to become nobody, for whom permissions hold
	const nobody = 65534
	dir, err := os.MkdirTemp("", "berth-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(plain.Get(t), "serve", "--listen", "unix:"+filepath.Join(dir, "socket"), "--data", filepath.Join(dir, "data"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%v\n%s", err, &log)
		}
	})
	api := overUnix(t, filepath.Join(dir, "socket"))
	if !eventually(func() bool {
		resp, err := api.Try(t.Context(), "GET", "/readyz", nil)
		return err == nil && resp.StatusCode == 200
	}) {
		t.Fatal("the server does not start")
	}
	b, other := octets(harness.Random(1000)), octets(harness.Random(1000))
	api.PushBlob("unreadable/app", b)
	api.PushBlob("unreadable/app", other)
	path := objectOf(t, dir, b.Bytes)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, api.Do("GET", "/v2/unreadable/app/blobs/"+b.Digest.String(), nil), 500, "UNKNOWN")
	wantFailure(t, api.Do("GET", "/v2/unreadable/app/blobs/"+b.Digest.String(), nil, harness.Header{"Range": "bytes=1-"}), 500, "UNKNOWN")
	api.Expect(200, "GET", "/v2/unreadable/app/blobs/"+other.Digest.String(), nil)
	works(t, api, "unreadable/other")

	// The folder of the hour cannot be written to.
	if err := os.Chmod(filepath.Dir(path), 0o500); err != nil {
		t.Fatal(err)
	}
	c := octets(harness.Random(1000))
	wantFailure(t, api.Do("POST", "/v2/unreadable/app/blobs/uploads/?digest="+c.Digest.String(), c.Bytes), 500, "UNKNOWN")
	api.Expect(200, "GET", "/v2/unreadable/app/blobs/"+other.Digest.String(), nil)
	if err := errors.Join(os.Chmod(filepath.Dir(path), 0o700), os.Chmod(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	api.Expect(200, "GET", "/v2/unreadable/app/blobs/"+b.Digest.String(), nil)
	api.PushBlob("unreadable/app", c)
}
