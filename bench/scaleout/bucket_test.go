//go:build bench && linux

package scaleout

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/berthregistry/berth/bench/report"
	"github.com/berthregistry/berth/test/service"
)

const gib = 1 << 30

// distinct makes random bytes another blob.
type distinct struct {
	*os.File
	first [8]byte
}

func (d *distinct) ReadAt(p []byte, at int64) (int, error) {
	n, err := d.File.ReadAt(p, at)
	if at < 8 {
		copy(p[:n], d.first[at:])
	}
	return n, err
}

// inTurn calls both, in another order each round.
func inTurn(round int, a, b func()) {
	if round%2 == 1 {
		a, b = b, a
	}
	a()
	b()
}

// readAll reads a blob of 1 GiB and closes it. It reads 32 KiB at a time, as who writes to a file does. io.Discard would read 8 KiB:
// to the client library, for which each read is a matter between two goroutines, that is twice the work.
func readAll(t *testing.T, r io.ReadCloser) {
	t.Helper()
	defer r.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 32<<10))
	if n != gib || err != nil {
		t.Fatal(n, err)
	}
}

// TestBucket measures a blob of 1 GiB through a node on S3, beside the same S3 server through the same client
// library, and what a pull costs the node that sends its clients to the bucket.
func TestBucket(t *testing.T) {
	bucket := service.S3(t)
	db := service.Postgres(t)
	streamed := startNode(t, db, bucket, "BERTH_STORAGE_S3_REDIRECT=off")
	redirecting := startNode(t, db, bucket, "BERTH_STORAGE_S3_REDIRECT=on")
	client, err := minio.New(bucket.Endpoint[len("http://"):], &minio.Options{
		Creds:  credentials.NewStaticV4(bucket.AccessKey, bucket.SecretKey, ""),
		Region: bucket.Region, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}

	file, err := os.Create(filepath.Join(t.TempDir(), "content"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	random := make([]byte, 1<<20)
	for i := range random {
		random[i] = byte(i * i >> 3)
	}
	for i := range gib / len(random) {
		binary.LittleEndian.PutUint64(random, uint64(i)*0x9E3779B97F4A7C15)
		if _, err := file.Write(random); err != nil {
			t.Fatal(err)
		}
	}

	rate := func(start time.Time) float64 { return gib / (1 << 20) / time.Since(start).Seconds() }
	tab := report.NewTable("bucket", "blob of 1 GiB", "through a node", "client library alone", "ratio")
	var push, direct, pushRatio, pull, directPull, pullRatio, memory []float64
	var costs []float64 // processor seconds of a node per GiB pulled
	streamed.resetPeak(t)
	before := streamed.peak(t)
	for round := range 5 {
		d := &distinct{File: file}
		binary.LittleEndian.PutUint64(d.first[:], uint64(round+1))
		content := func() io.Reader { return io.NewSectionReader(d, 0, gib) }
		h := sha256.New()
		if _, err := io.Copy(h, content()); err != nil {
			t.Fatal(err)
		}
		digest := fmt.Sprintf("sha256:%x", h.Sum(nil))

		// Each is first in turn, and what the disk has to write is written before: else one would wait for the bytes of the other.
		inTurn(round, func() {
			syscall.Sync()
			// The library's defaults: over HTTP it hashes what it sends, and the server hashes it again. The node has no payload hashed,
			// but computes the digest, which is as much.
			start := time.Now()
			if _, err := client.PutObject(t.Context(), bucket.Name, fmt.Sprint("direct-", round), content(), gib, minio.PutObjectOptions{
				PartSize: 16 << 20, NumThreads: 4, ConcurrentStreamParts: true,
			}); err != nil {
				t.Fatal(err)
			}
			direct = append(direct, rate(start))
		}, func() {
			resp := do(t, http.MethodPost, streamed.URL+"/v2/app/blobs/uploads/", nil, 0, http.StatusAccepted)
			drain(t, resp)
			streamed.resetPeak(t)
			syscall.Sync()
			start := time.Now()
			drain(t, do(t, http.MethodPut, streamed.URL+resp.Header.Get("Location")+"&digest="+digest, content(), gib, http.StatusCreated))
			push = append(push, rate(start))
			memory = append(memory, streamed.peak(t))
		})
		pushRatio = append(pushRatio, push[round]/direct[round])

		inTurn(round, func() {
			start := time.Now()
			object, err := client.GetObject(t.Context(), bucket.Name, fmt.Sprint("direct-", round), minio.GetObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, object)
			directPull = append(directPull, rate(start))
		}, func() {
			start := time.Now()
			readAll(t, do(t, http.MethodGet, streamed.URL+"/v2/app/blobs/"+digest, nil, 0, http.StatusOK).Body)
			pull = append(pull, rate(start))
		})
		pullRatio = append(pullRatio, pull[round]/directPull[round])
		t.Logf("round %d: push %.0f of %.0f MiB/s, pull %.0f of %.0f MiB/s, %.0f MiB", round, push[round], direct[round], pull[round], directPull[round], memory[round])

		if round == 0 {
			for _, n := range []*node{streamed, redirecting} {
				begin := n.cpu(t)
				const pulls = 4
				for range pulls {
					readAll(t, do(t, http.MethodGet, n.URL+"/v2/app/blobs/"+digest, nil, 0, http.StatusOK).Body)
				}
				costs = append(costs, (n.cpu(t)-begin).Seconds()/pulls)
			}
		}
		drain(t, do(t, http.MethodDelete, streamed.URL+"/v2/app/blobs/"+digest, nil, 0, http.StatusAccepted))
		if err := client.RemoveObject(t.Context(), bucket.Name, fmt.Sprint("direct-", round), minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	tab.Add("push, MiB/s", report.Median(push), report.Median(direct), report.Median(pushRatio))
	tab.Add("pull, streamed, MiB/s", report.Median(pull), report.Median(directPull), report.Median(pullRatio))
	// Later pushes find a heap that has grown, and a collector that waits until it has doubled.
	tab.Add("the node's memory before any push, MiB", before, "", "")
	tab.Add("peak of the node's memory in its first push, MiB", memory[0], "", "")
	tab.Add("peak of the node's memory in a push, MiB", report.Median(memory), "", "")
	tab.Add("the node's processor time for a pull, streamed, s", costs[0], "", "")
	tab.Add("the node's processor time for a pull, redirected, s", costs[1], "", "")
	show(t, tab)
}
