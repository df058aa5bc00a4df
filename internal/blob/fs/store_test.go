package fs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/blobtest"
)

func TestKeyForm(t *testing.T) {
	s, _, now := newSimStore(t, Options{})
	form := regexp.MustCompile(`^\d{8}/\d\d/[A-Z2-7]{26}$`)
	for _, test := range []struct {
		now    time.Time
		prefix string
	}{
		{time.Date(2026, 11, 21, 5, 59, 59, 0, time.UTC), "20261121/05/"},
		{time.Date(2026, 11, 21, 6, 0, 0, 0, time.UTC), "20261121/06/"},
		{time.Date(2026, 11, 22, 1, 0, 0, 0, time.FixedZone("", 2*3600)), "20261121/23/"},
		{time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), "20270101/00/"},
	} {
		*now = test.now
		if key := put(t, s, "x"); !strings.HasPrefix(key, test.prefix) || !form.MatchString(key) {
			t.Errorf("a key of %v is %s", test.now, key)
		}
	}
}

// FuzzKey tries to reach a file outside the folder.
func FuzzKey(f *testing.F) {
	for _, key := range blobtest.InvalidKeys {
		f.Add(key)
	}
	f.Add("20261121/05/AAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("docker/registry/v2/blobs/sha256/ab/abcd/data")
	f.Add("..\\secret")
	f.Add("a/..\\..\\secret")
	f.Add("../secret")
	f.Add("blobs/../../secret")
	root := f.TempDir()
	dir := filepath.Join(root, "blobs")
	s, err := Open(dir, Options{})
	if err != nil {
		f.Fatal(err)
	}
	secret := filepath.Join(root, "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key string) {
		path, err := s.path(key)
		if err != nil {
			if !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("path(%q): %v", key, err)
			}
			if err := s.Delete(t.Context(), key); err == nil {
				t.Errorf("Delete of invalid key %q succeeded", key)
			}
			if key != "" && key != "." && filepath.IsLocal(key) && filepath.ToSlash(filepath.Clean(key)) == key &&
				regexp.MustCompile(`^[\w/.-]+$`).MatchString(key) {
				t.Errorf("key %q is refused: %v", key, err)
			}
			return
		}
		if rel, err := filepath.Rel(dir, path); err != nil || filepath.ToSlash(rel) != key || !filepath.IsLocal(rel) || rel == "." {
			t.Fatalf("path(%q) = %s, %s below the folder, %v", key, path, rel, err)
		}
		if r, err := s.Open(t.Context(), key); err == nil {
			r.Close()
			t.Errorf("Open(%q) found a file in an empty store", key)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete(%q): %v", key, err)
		}
		if _, err := os.Stat(secret); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAdopted reads and deletes files that another program has put into the folder.
func TestAdopted(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	const key = "docker/registry/v2/blobs/sha256/ab/abcd/data"
	path := filepath.Join(dir, key)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("layer"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Things in the folder that are no objects.
	for _, name := range []string{"20261121/05", "20261121/24", "20261399/05", "2026112/05", "20261121/05x"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"20261122", "20261121/06", "20261121/24/x", "20261399/05/x", "20261121/05x/x"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := keys(t, s); len(got) != 0 {
		t.Errorf("List yields %q, which the store did not name", got)
	}
	if got := get(t, s, key); got != "layer" {
		t.Errorf("the adopted file has %q", got)
	}
	for _, folder := range []string{"docker", "20261121", "20261121/05"} {
		if _, err := s.Open(t.Context(), folder); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Open of folder %s: %v", folder, err)
		}
		if _, err := s.Stat(t.Context(), folder); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Stat of folder %s: %v", folder, err)
		}
		if _, err := s.Resume(t.Context(), blob.State{Key: folder}); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Resume of folder %s: %v", folder, err)
		}
		if err := s.Delete(t.Context(), folder); err != nil {
			t.Errorf("Delete of folder %s: %v", folder, err)
		}
		if _, err := os.Stat(filepath.Join(dir, folder)); err != nil {
			t.Errorf("Delete removed folder %s: %v", folder, err)
		}
	}
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open of what is deleted: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		t.Errorf("Delete removed a folder that the store did not make: %v", err)
	}
}

// TestFile serves an object by its file, as the kernel copies it to a socket.
func TestFile(t *testing.T) {
	s, _, _ := newSimStore(t, Options{})
	want := strings.Repeat("0123456789", 100_000)
	key := put(t, s, want)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r, err := s.Open(req.Context(), key)
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		own, err := r.(interface{ Own() (*os.File, error) }).Own()
		if err != nil {
			t.Error(err)
			return
		}
		defer own.Close()
		http.ServeContent(w, req, "", time.Time{}, own)
	}))
	defer server.Close()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
	req.Header.Set("Range", "bytes=500005-600004")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want[500005:600005] {
		t.Errorf("read %d bytes, %v; want 100000 from 500005 on", len(got), err)
	}
}

// folders returns the folders below dir, with slashes.
func folders(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() && path != dir {
			names = append(names, filepath.ToSlash(path[len(dir)+1:]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestEmptyFolders deletes objects of several hours.
func TestEmptyFolders(t *testing.T) {
	s, _, now := newSimStore(t, Options{})
	begin := time.Date(2026, 11, 21, 0, 30, 0, 0, time.UTC)
	var all []string
	for i := range 30 {
		*now = begin.Add(time.Duration(i) * time.Hour)
		all = append(all, put(t, s, "x"), put(t, s, "y"))
	}
	remove := func(keys ...string) {
		t.Helper()
		for _, key := range keys {
			if err := s.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	// One of an hour's two objects.
	remove(all[0])
	if got := folders(t, s.dir); len(got) != 32 {
		t.Errorf("%d folders are there, want 32", len(got))
	}
	// Everything. It is 05:30 on the second day: of that day, 00 to 02 are past.
	remove(all[1:]...)
	if got, want := folders(t, s.dir), []string{"20261122", "20261122/03", "20261122/04", "20261122/05"}; !slices.Equal(got, want) {
		t.Errorf("the folders are %q, want %q", got, want)
	}
	// Those that were too young go when somebody deletes there later.
	*now = now.Add(24 * time.Hour)
	remove(all...)
	if got := folders(t, s.dir); len(got) != 0 {
		t.Errorf("the folders are %q, want none", got)
	}
	put(t, s, "x")
}

// TestFolderRemoved removes the folder that the store believes in, as a Delete
// does if the clock is set ahead and back.
func TestFolderRemoved(t *testing.T) {
	s, sim, now := newSimStore(t, Options{})
	key := put(t, s, "x")
	*now = now.Add(48 * time.Hour)
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if got := folders(t, s.dir); len(got) != 0 {
		t.Errorf("the folders are %q, want none", got)
	}
	*now = now.Add(-48 * time.Hour)
	sim.calls = nil
	put(t, s, "x")
	if got, want := strings.Join(sim.calls, " "), "create mkdir mkdir syncDir syncDir create write sync close syncDir"; got != want {
		t.Errorf("the calls were\n%s\nwant\n%s", got, want)
	}
}

// TestHoursRace creates and deletes while hours pass so fast that folders are removed
// right beside it.
func TestHoursRace(t *testing.T) {
	var ticks atomic.Int64
	begin := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	s, err := open(t.TempDir(), Options{}, osCalls{}, func() time.Time {
		// Each look at the clock moves it on, or back, by some minutes.
		return begin.Add(time.Duration(ticks.Add(rand.Int64N(70)-30)) * time.Minute)
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	stay := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 60 {
				w, err := s.Create(t.Context())
				if err != nil {
					t.Errorf("Create: %v", err)
					return
				}
				if _, err := fmt.Fprint(w, i); err != nil {
					t.Errorf("Write: %v", err)
				}
				if err := w.Commit(t.Context()); err != nil {
					t.Errorf("Commit: %v", err)
				}
				if i%10 == 0 {
					mu.Lock()
					stay[w.Key()] = true
					mu.Unlock()
				} else if err := s.Delete(t.Context(), w.Key()); err != nil {
					t.Errorf("Delete: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got, want := keys(t, s), slices.Sorted(maps.Keys(stay)); !slices.Equal(got, want) {
		t.Errorf("%d objects are there, %d should be", len(got), len(want))
	}
}
