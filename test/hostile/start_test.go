package hostile

import (
	"context"
	"database/sql"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	_ "modernc.org/sqlite"

	"github.com/berthregistry/berth/test/harness"
)

// v1Manifest is an image manifest with nothing in it.
var v1Manifest v1.Manifest

// overUnix speaks to a server on a Unix socket.
func overUnix(t *testing.T, socket string) *harness.API {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &harness.API{T: t, Base: "http://unix", Client: &http.Client{Transport: tr, Timeout: time.Minute}}
}

// One data folder is for one server; who only looks may look.
func TestFolderInUse(t *testing.T) {
	dir := t.TempDir()
	s := startIn(t, dir)
	api := harness.NewAPI(t, s)
	works(t, api, "inuse/app")
	wantRefusal(t, dir, "in use by another server", "process ")
	if out, code := program(t, "fsck", "--repair", "--data", filepath.Join(dir, "data")); code != 1 {
		t.Errorf("fsck --repair beside a server: exit code %d\n%s", code, out)
	}
	if r, found := check(t, dir, "--deep"); r.Damaged+r.Leftover != 0 || r.Blobs != 2 {
		t.Errorf("fsck beside a server finds %+v %+v", r, found)
	}
	works(t, api, "inuse/app")
}

// A database that a newer Berth has written is left alone.
func TestNewerDatabase(t *testing.T) {
	dir := t.TempDir()
	s := startIn(t, dir)
	works(t, harness.NewAPI(t, s), "newer/app")
	s.Kill()
	version := func(statement string) {
		t.Helper()
		db, err := sql.Open("sqlite", filepath.Join(dir, "data", "berth.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	version(`INSERT INTO schema_migration (version) VALUES (999)`)
	wantRefusal(t, dir, "999", "newer Berth")
	for _, flags := range [][]string{{"fsck"}, {"fsck", "--repair"}} {
		if out, code := program(t, append(flags, "--data", filepath.Join(dir, "data"))...); code != 1 {
			t.Errorf("berth %v: exit code %d\n%s", flags, code, out)
		}
	}
	version(`DELETE FROM schema_migration WHERE version = 999`)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	harness.NewAPI(t, s).Expect(200, "GET", "/v2/newer/app/manifests/works", nil)
}

// What cannot be a data folder is refused with a message for people.
func TestBadFolders(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.WriteFile(data, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, dir, "not a directory")
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "berth.db"), []byte("this is no database, but some text that is long enough to be one"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, dir, "berth.db", "not a database")
	if out, code := program(t, "fsck", "--data", filepath.Join(dir, "nothing")); code != 1 {
		t.Errorf("fsck of nothing: exit code %d\n%s", code, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "nothing")); err == nil {
		t.Error("fsck has made a folder")
	}

	// An address that is taken.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if out, code := program(t, "serve", "--listen", l.Addr().String(), "--data", filepath.Join(dir, "other")); code != 1 {
		t.Errorf("an address in use: exit code %d\n%s", code, out)
	}
}
