package s3

import (
	"context"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
)

// endless is a source of size bytes that costs little.
type endless struct {
	block []byte
	size  int64
	at    int64
}

func (e *endless) ReadAt(p []byte, offset int64) (n int, err error) {
	for n < len(p) && offset < e.size {
		m := copy(p[n:], e.block[offset%int64(len(e.block)):])
		m = int(min(int64(m), e.size-offset))
		n += m
		offset += int64(m)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (e *endless) Read(p []byte) (int, error) {
	n, err := e.ReadAt(p, e.at)
	e.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// discard takes what is read in pieces as large as a server's.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkStore sends and reads objects of 1 GiB through a Store and with the client library alone, in turn, and
// reports medians, and ratios within one turn. The library alone, "direct", sends parts in parallel without hashing the payload, which is
// the fastest that it can; "default" is what it does without options. "upload" is a Store below what the registry has
// above it: a digest, and a checkpoint each 64 MiB.
func BenchmarkStore(b *testing.B) {
	const size = 1 << 30
	bucket := service.NewS3(b).Bucket(b)
	s := openStore(b, optionsOf(bucket))
	client := bucket.Client(b)
	block := content(1, 1<<20)
	direct := func(opts minio.PutObjectOptions) func(name string) error {
		return func(name string) error {
			_, err := client.Client.PutObject(b.Context(), bucket.Name, name, &endless{block: block, size: size}, size, opts)
			return err
		}
	}
	var last string
	through := func(checked bool) func(string) error {
		return func(string) error {
			w, err := s.Create(b.Context())
			if err != nil {
				return err
			}
			last = w.Key()
			if !checked {
				if _, err := io.CopyBuffer(w, &endless{block: block, size: size}, make([]byte, 256<<10)); err != nil {
					return err
				}
				return w.Commit(b.Context())
			}
			u := blob.NewUpload(w, oci.SHA256)
			u.CheckpointEvery(64<<20, time.Hour, func(context.Context, blob.State, []byte) error { return nil })
			if _, err := u.ReadFrom(b.Context(), &endless{block: block, size: size}); err != nil {
				return err
			}
			u.Digest()
			return u.Commit(b.Context())
		}
	}
	figures := map[string][]float64{}
	measure := func(name string, f func() error) float64 {
		begin := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		took := time.Since(begin).Seconds()
		figures[name+"-MiB/s"] = append(figures[name+"-MiB/s"], 1024/took)
		return took
	}
	read := func(r io.Reader, err error) error {
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(discard{}, struct{ io.Reader }{r}, make([]byte, 256<<10))
		return err
	}
	for b.Loop() {
		base := measure("push-direct", func() error { return direct(minio.PutObjectOptions{DisableContentSha256: true})("direct") })
		ratio := func(name string, took float64) { figures[name] = append(figures[name], base/took) }
		ratio("push-default/direct", measure("push-default", func() error { return direct(minio.PutObjectOptions{})("direct") }))
		ratio("push-store/direct", measure("push-store", func() error { return through(false)("") }))
		if err := s.Delete(b.Context(), last); err != nil {
			b.Fatal(err)
		}
		ratio("push-upload/direct", measure("push-upload", func() error { return through(true)("") }))
		base = measure("pull-direct", func() error {
			r, _, _, err := client.GetObject(b.Context(), bucket.Name, last, minio.GetObjectOptions{})
			if err == nil {
				defer r.Close()
			}
			return read(r, err)
		})
		ratio("pull-store/direct", measure("pull-store", func() error {
			r, err := s.Open(b.Context(), last)
			if err == nil {
				defer r.Close()
			}
			return read(r, err)
		}))
		if err := s.Delete(b.Context(), last); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	for unit, of := range figures {
		slices.Sort(of)
		b.ReportMetric(of[len(of)/2], unit)
	}
}
