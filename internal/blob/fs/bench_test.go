package fs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkCommit stores objects of 16 KiB, each durable before its writer's next, and beside
// that does the same with the bare calls: a sync of the file and one of its folder.
func BenchmarkCommit(b *testing.B) {
	content := make([]byte, 16<<10)
	bare := func(dir string) error {
		f, err := os.OpenFile(filepath.Join(dir, rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		if err != nil {
			return err
		}
		if _, err := f.Write(content); err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	}
	// Removed at the very end: the disk is slow for a while after many files are removed.
	root := b.TempDir()
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("store/writers=%d", writers), func(b *testing.B) {
			s, err := Open(root, Options{Reserve: 1 << 20})
			if err != nil {
				b.Fatal(err)
			}
			benchWriters(b, writers, func() error {
				w, err := s.Create(b.Context())
				if err != nil {
					return err
				}
				if _, err := w.Write(content); err != nil {
					return err
				}
				return w.Commit(b.Context())
			})
		})
		b.Run(fmt.Sprintf("bare/writers=%d", writers), func(b *testing.B) {
			benchWriters(b, writers, func() error { return bare(root) })
		})
	}
}

// benchWriters calls put b.N times from several goroutines.
func benchWriters(b *testing.B, writers int, put func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := put(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

// BenchmarkOpen opens and closes an object of 64 KiB, which is all that a store has to do with a pull.
func BenchmarkOpen(b *testing.B) {
	s, key := benchObject(b)
	b.ReportAllocs()
	for b.Loop() {
		r, err := s.Open(b.Context(), key)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStat(b *testing.B) {
	s, key := benchObject(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Stat(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
}

func benchObject(b *testing.B) (*Store, string) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	w, err := s.Create(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 64<<10)); err != nil {
		b.Fatal(err)
	}
	if err := w.Commit(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s, w.Key()
}
