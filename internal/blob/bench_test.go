package blob_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/oci"
)

// BenchmarkUpload takes bodies of 1 GiB from a loopback connection, with the sync
// at the end, in three ways, in turn, because what a write costs depends on what ran
// before: the barest program (one goroutine that reads, hashes and writes), an
// Upload, and one with checkpoints. It reports medians, and ratios within one turn.
func BenchmarkUpload(b *testing.B) {
	const size = 1 << 30
	ways := []struct {
		name string
		take func(b *testing.B, dir string, body io.Reader)
	}{
		{"bare", takeBare},
		{"upload", func(b *testing.B, dir string, body io.Reader) { takeUpload(b, dir, body, 0) }},
		{"checkpoints", func(b *testing.B, dir string, body io.Reader) { takeUpload(b, dir, body, 64<<20) }},
	}
	figures := map[string][]float64{}
	for b.Loop() {
		var bareTime, bareCPU float64
		for _, way := range ways {
			dir := b.TempDir()
			conn := sendBytes(b, size)
			begin, cpu := time.Now(), cpuTime(b)
			way.take(b, dir, conn)
			took, cost := time.Since(begin).Seconds(), (cpuTime(b) - cpu).Seconds()
			conn.Close()
			if err := os.RemoveAll(dir); err != nil {
				b.Fatal(err)
			}
			figures[way.name+"-MiB/s"] = append(figures[way.name+"-MiB/s"], 1024/took)
			figures[way.name+"-cpu-s"] = append(figures[way.name+"-cpu-s"], cost)
			if way.name == "bare" {
				bareTime, bareCPU = took, cost
				continue
			}
			figures[way.name+"/bare-speed"] = append(figures[way.name+"/bare-speed"], bareTime/took)
			figures[way.name+"/bare-cpu"] = append(figures[way.name+"/bare-cpu"], cost/bareCPU)
		}
	}
	b.ReportMetric(0, "ns/op")
	for unit, of := range figures {
		slices.Sort(of)
		b.ReportMetric(of[len(of)/2], unit)
	}
}

func takeBare(b *testing.B, dir string, body io.Reader) {
	f, err := os.Create(filepath.Join(dir, rand.Text()))
	if err != nil {
		b.Fatal(err)
	}
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		h.Write(buf[:n])
		if _, err := f.Write(buf[:n]); err != nil {
			b.Fatal(err)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	h.Sum(nil)
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	f.Close()
}

func takeUpload(b *testing.B, dir string, body io.Reader, every int64) {
	store, err := fs.Open(dir, fs.Options{Reserve: 1 << 20})
	if err != nil {
		b.Fatal(err)
	}
	w, err := store.Create(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	u := blob.NewUpload(w, oci.SHA256)
	u.CheckpointEvery(every, checkpointAge, func(context.Context, blob.State, []byte) error { return nil })
	if _, err := u.ReadFrom(b.Context(), body); err != nil {
		b.Fatal(err)
	}
	u.Digest()
	if err := u.Commit(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// sendBytes returns a loopback connection from which size bytes can be read.
func sendBytes(b *testing.B, size int64) net.Conn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 1<<20)
		rand.Read(buf)
		for sent := int64(0); sent < size; sent += int64(len(buf)) {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	}()
	conn, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return conn
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkUploadSmall takes bodies of 16 KiB, as configs and small layers are, without a sync.
func BenchmarkUploadSmall(b *testing.B) {
	body := make([]byte, 16<<10)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		u := blob.NewUpload(discard{}, oci.SHA256)
		if _, err := u.ReadFrom(b.Context(), &limited{n: len(body)}); err != nil {
			b.Fatal(err)
		}
		u.Digest()
	}
}

// discard is a Writer that keeps nothing.
type discard struct{ blob.Writer }

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Size() int64                 { return 0 }

// limited yields n bytes.
type limited struct{ n int }

func (l *limited) Read(p []byte) (int, error) {
	if l.n == 0 {
		return 0, io.EOF
	}
	n := min(len(p), l.n)
	l.n -= n
	return n, nil
}
