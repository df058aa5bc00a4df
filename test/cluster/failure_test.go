package cluster

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// PostgreSQL is restarted, crashes, and stays away for a while: clients hear nothing but 503 with a time to try again, and
// nothing that was acknowledged is lost.
func TestDatabaseRestarts(t *testing.T) {
	t.Parallel()
	pg := service.NewPostgres(t)
	c := start(t, options{database: pg.Database(t), env: []string{"BERTH_DATABASE_POOL_TIMEOUT=1s"}})
	l := pushAndPull(t, c.api(), 4, name("database"), 6, onlyBusy)
	for _, mode := range []string{"fast", "immediate", "fast"} {
		time.Sleep(700 * time.Millisecond)
		pg.Restart(t, mode)
	}
	time.Sleep(700 * time.Millisecond)
	pg.Stop(t, "immediate")
	for n := range nodes {
		wait(t, "a node that has no database says so", func() bool { return slices.Equal(c.notReady(n), []string{"database"}) })
		resp := c.at(n).Do("GET", "/v2/"+name("database-0")+"/tags/list", nil)
		unavailable(t, "tags without a database", resp)
	}
	if resp := c.at(0).Do("GET", "/livez", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("a node without a database is dead: %d", resp.StatusCode)
	}
	pg.Start(t)
	for n := range nodes {
		wait(t, "a node is ready again", func() bool { return c.notReady(n) == nil })
	}
	time.Sleep(500 * time.Millisecond)
	images := l.end()
	if l.again() == 0 {
		t.Error("no request met a database that was away: this tests nothing")
	}
	c.verify(images)
	c.fsck("--deep")
}

// Without the bucket, manifests are pulled, everything else is 503, and /readyz names what is missing. An upload that was open goes
// on afterwards.
func TestBucketAway(t *testing.T) {
	t.Parallel()
	s3 := service.NewS3(t)
	c := start(t, options{bucket: s3.Bucket(t)})
	api := c.api()
	rng := rand.New(rand.NewPCG(7, 8))
	b := makeContent(1, 300_000)
	img := newImage(rng, name("bucket"), "1", b)
	blobPath, manifestPath := "/v2/"+img.repo+"/blobs/"+b.digest.String(), "/v2/"+img.repo+"/manifests/1"
	api.Expect(http.StatusCreated, "POST", "/v2/"+img.repo+"/blobs/uploads/?digest="+b.digest.String(), b.bytes())
	api.Expect(http.StatusCreated, "PUT", manifestPath, img.manifest, harness.Header{"Content-Type": "application/vnd.oci.image.manifest.v1+json"})
	open := makeContent(2, 14<<20)
	location := api.StartUpload(img.repo)
	api.Expect(http.StatusAccepted, "PATCH", location, open.bytes()[:8<<20], harness.Header{"Content-Range": fmt.Sprintf("0-%d", 8<<20-1)})

	s3.Stop()
	for n := range nodes {
		wait(t, "a node that has no bucket says so", func() bool { return slices.Equal(c.notReady(n), []string{"blobs"}) })
	}
	// Each of these waits for the bucket for a while, and manifests must not wait meanwhile.
	small := makeContent(3, 10)
	waiting := map[string]func() *harness.Response{
		"a small upload": func() *harness.Response {
			return api.Do("POST", "/v2/"+img.repo+"/blobs/uploads/?digest="+small.digest.String(), small.bytes())
		},
		"a chunk": func() *harness.Response {
			return api.Do("PATCH", location, open.bytes()[8<<20:], harness.Header{"Content-Range": fmt.Sprintf("%d-%d", 8<<20, 14<<20-1)})
		},
		"a blob": func() *harness.Response { return api.Do("GET", blobPath, nil) },
	}
	for n := range nodes {
		waiting[fmt.Sprint("a blob at node ", n)] = func() *harness.Response { return c.at(n).Do("GET", blobPath, nil) }
	}
	var wg sync.WaitGroup
	for what, ask := range waiting {
		wg.Go(func() { unavailable(t, what+" without the bucket", ask()) })
	}
	for range 20 {
		for _, path := range []string{manifestPath, "/v2/" + img.repo + "/tags/list", "/v2/_catalog"} {
			api.Expect(http.StatusOK, "GET", path, nil)
		}
	}
	wg.Wait()
	api.Expect(http.StatusOK, "GET", manifestPath, nil) // nor did nginx take the nodes out of service
	// A tag can be moved, too.
	api.Expect(http.StatusCreated, "PUT", "/v2/"+img.repo+"/manifests/2", img.manifest, harness.Header{"Content-Type": "application/vnd.oci.image.manifest.v1+json"})

	s3.Start(t)
	for n := range nodes {
		wait(t, "a node is ready again", func() bool { return c.notReady(n) == nil })
	}
	resp := api.Expect(http.StatusNoContent, "GET", location, nil)
	at, _ := received(resp)
	if at < 8<<20 || at > 14<<20 {
		t.Fatalf("the upload has %d bytes, %d were acknowledged", at, 8<<20)
	}
	if at < 14<<20 {
		api.Expect(http.StatusAccepted, "PATCH", location, open.bytes()[at:], harness.Header{"Content-Range": fmt.Sprintf("%d-%d", at, 14<<20-1)})
	}
	api.Expect(http.StatusCreated, "PUT", harness.WithDigest(location, open.digest.String()), nil)
	for n := range nodes {
		if resp := c.at(n).Expect(http.StatusOK, "GET", "/v2/"+img.repo+"/blobs/"+open.digest.String(), nil); !bytes.Equal(resp.Bytes, open.bytes()) {
			t.Errorf("node %d returns %d other bytes", n, len(resp.Bytes))
		}
	}
	c.verify([]image{img})
	c.fsck("--deep")
}

// The S3 server is killed and started while clients push and pull.
func TestBucketRestarts(t *testing.T) {
	t.Parallel()
	s3 := service.NewS3(t)
	c := start(t, options{bucket: s3.Bucket(t)})
	// A node asks again for some seconds, so that clients notice little. A blob that is being read when the server dies is
	// cut off, because its head has gone to the client.
	l := pushAndPull(t, c.api(), 4, name("s3"), 9, brokenOnes)
	for range 3 {
		time.Sleep(700 * time.Millisecond)
		s3.Stop()
		time.Sleep(time.Second)
		s3.Start(t)
	}
	time.Sleep(700 * time.Millisecond)
	images := l.end()
	c.verify(images)
	c.fsck("--deep")
}

// All nodes collect at once, all the time: what is needed stays, what isn't goes, and nothing is left over.
func TestNodesCollectAtOnce(t *testing.T) {
	t.Parallel()
	bucket := service.S3(t)
	c := start(t, options{bucket: bucket, env: []string{"BERTH_COLLECTION_INTERVAL=1s", "BERTH_TRASH_KEEP=0", "BERTH_COLLECTION_GRACE=15s", "BERTH_LOG_ACCESS=false"}})
	l := pushAndPull(t, c.api(), 3, name("collect"), 10, noFaults)
	rng := rand.New(rand.NewPCG(12, 13))
	api := c.api()
	var forgotten []content
	for i := range 40 {
		b := makeContent(rng.Uint64(), 1000+i) // no manifest will need it
		api.Expect(http.StatusCreated, "POST", "/v2/"+name("forgotten")+"/blobs/uploads/?digest="+b.digest.String(), b.bytes())
		forgotten = append(forgotten, b)
	}
	images := l.end()
	// Half of the images go.
	var kept []image
	for i, img := range images {
		if i%2 == 0 {
			kept = append(kept, img)
			continue
		}
		c.at(i).Expect(http.StatusAccepted, "DELETE", "/v2/"+img.repo+"/manifests/"+img.digest.String(), nil)
	}
	needed := make(map[string]bool)
	for _, img := range kept {
		for _, b := range img.blobs {
			needed[b.digest.String()] = true
		}
	}
	wait(t, "the bucket has what manifests need, and nothing else", func() bool {
		r := c.fsck()
		return r.Blobs == int64(len(needed)) && r.Leftover == 0 && objects(t, bucket) == len(needed)
	})
	c.verifyContent(kept)
	for _, b := range forgotten {
		c.at(1).Expect(http.StatusNotFound, "GET", "/v2/"+name("forgotten")+"/blobs/"+b.digest.String(), nil)
	}
	c.fsck("--deep")
}

// objects returns how many objects there are in a bucket, beside the journal.
func objects(t *testing.T, b *service.Bucket) (n int) {
	t.Helper()
	for o := range b.Client(t).Client.ListObjects(t.Context(), b.Name, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if !strings.HasPrefix(o.Key, "journal/") {
			n++
		}
	}
	return n
}
