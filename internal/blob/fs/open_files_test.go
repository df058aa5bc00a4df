package fs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/berthregistry/berth/internal/blob"
)

// opened opens an object and reads all of it.
func opened(t *testing.T, s *Store, key, want string) *reader {
	t.Helper()
	r, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
	return r.(*reader)
}

func fileOf(r *reader) *os.File {
	f, _ := r.Shared()
	return f
}

func isClosed(f *os.File) bool {
	_, err := f.Stat()
	return errors.Is(err, os.ErrClosed)
}

// Files stay open for the next reader until others were read later, and never while none may be kept.
func TestKeepOpen(t *testing.T) {
	s, err := Open(t.TempDir(), Options{KeepOpen: 2})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for i := range 3 {
		keys = append(keys, put(t, s, fmt.Sprint(i)))
	}
	first, again := opened(t, s, keys[0], "0"), opened(t, s, keys[0], "0")
	f := fileOf(first)
	if f != fileOf(again) {
		t.Error("two readers of an object have two files")
	}
	first.Close()
	if err := first.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed again: %v", err)
	}
	for i := range 3 { // the last one pushes out the first
		opened(t, s, keys[i], fmt.Sprint(i)).Close()
	}
	if isClosed(f) {
		t.Fatal("a file was closed under its reader")
	}
	if again.Seek(0, io.SeekStart); again.Close() != nil || !isClosed(f) {
		t.Error("a file that is not kept stays open after its last reader")
	}
	kept := fileOf(opened(t, s, keys[2], "2"))
	last := opened(t, s, keys[2], "2")
	s.Close()
	if last.Close(); isClosed(kept) {
		t.Error("Close closed a file under its reader")
	}
	r := opened(t, s, keys[1], "1") // goes on, and keeps nothing
	f = fileOf(r)
	if r.Close(); !isClosed(f) {
		t.Error("a file is kept after Close")
	}
}

// A deleted object is gone at once, but for those who are reading it, and its space is free after them.
func TestDeleteKeptOpen(t *testing.T) {
	for name, remove := range map[string]func(s *Store, key string) error{
		"by the store":      func(s *Store, key string) error { return s.Delete(t.Context(), key) },
		"by somebody else":  func(s *Store, key string) error { return os.Remove(filepath.Join(s.dir, filepath.FromSlash(key))) },
		"by another worker": func(s *Store, key string) error { return mustOpen(t, s.dir).Delete(t.Context(), key) },
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.TempDir(), Options{KeepOpen: 2})
			if err != nil {
				t.Fatal(err)
			}
			key := put(t, s, "x")
			r := opened(t, s, key, "x")
			if err := remove(s, key); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Open(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("Open of what is gone: %v", err)
			}
			r.Seek(0, io.SeekStart)
			if got, err := io.ReadAll(r); err != nil || string(got) != "x" {
				t.Errorf("the reader goes on with %q, %v", got, err)
			}
			f := fileOf(r)
			if r.Close(); !isClosed(f) {
				t.Error("what is gone is kept open")
			}
		})
	}
}

func mustOpen(t *testing.T, dir string) *Store {
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Readers, deletes and what pushes files out race; each reader has its object or hears that it is gone.
func TestKeepOpenRace(t *testing.T) {
	s, err := Open(t.TempDir(), Options{KeepOpen: 2})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 50 {
		var keys []string
		for i := range 4 {
			keys = append(keys, put(t, s, fmt.Sprint(round, i)))
		}
		var all sync.WaitGroup
		for worker := range 8 {
			all.Go(func() {
				for i := range 20 {
					n := (worker + i) % len(keys)
					r, err := s.Open(t.Context(), keys[n])
					if errors.Is(err, blob.ErrNotFound) {
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					if got, err := io.ReadAll(r); err != nil || string(got) != fmt.Sprint(round, n) {
						t.Errorf("read %q, %v", got, err)
					}
					if err := r.Close(); err != nil {
						t.Error(err)
					}
					if worker == 0 && i > 10 {
						if err := s.Delete(t.Context(), keys[n]); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		all.Wait()
		for _, k := range keys {
			if err := s.Delete(t.Context(), k); err != nil {
				t.Error(err)
			}
		}
		if n := s.open.kept.Len(); n != 0 {
			t.Fatalf("%d files of deleted objects are kept", n)
		}
	}
}
