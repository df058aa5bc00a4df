package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// load is clients that push and pull, each in a repository of its own.
type load struct {
	t       *testing.T
	clients []*client
	stopped chan struct{}
	stop    func()
	wg      sync.WaitGroup
}

// client pushes images and pulls what it has pushed. What fails it tries again, as clients of registries do.
type client struct {
	t      *testing.T
	api    *harness.API
	rng    *rand.Rand
	repo   string
	faults faults

	images []image // that were acknowledged
	done   int     // requests that were answered as they should
	again  int     // requests that had to be sent again
	broken bool    // the test was told
}

// faults say which failures a client takes.
type faults int

const (
	noFaults   faults = iota // none
	onlyBusy                 // 503 with Retry-After
	brokenOnes               // also connections that break
)

// pushAndPull starts clients that push, and pull what they have pushed.
func pushAndPull(t *testing.T, api *harness.API, clients int, repo string, seed uint64, f faults) *load {
	return begin(t, clients, (*client).step, func(i int) *client {
		return &client{t: t, api: api, rng: rand.New(rand.NewPCG(seed, uint64(i))), repo: fmt.Sprintf("%s-%d", repo, i), faults: f}
	})
}

// onlyPull starts clients that pull images.
func onlyPull(t *testing.T, api *harness.API, clients int, images []image, f faults) *load {
	pull := func(c *client) { c.pull(c.images[c.rng.IntN(len(c.images))]) }
	return begin(t, clients, pull, func(i int) *client {
		return &client{t: t, api: api, rng: rand.New(rand.NewPCG(0, uint64(i))), images: images, faults: f}
	})
}

func begin(t *testing.T, clients int, step func(*client), newClient func(i int) *client) *load {
	l := &load{t: t, stopped: make(chan struct{})}
	l.stop = sync.OnceFunc(func() { close(l.stopped) })
	for i := range clients {
		c := newClient(i)
		l.clients = append(l.clients, c)
		l.wg.Go(func() {
			for !c.broken {
				select {
				case <-l.stopped:
					return
				default:
					step(c)
				}
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

// end lets each client end what it is at, and returns what was acknowledged to all.
func (l *load) end() (images []image) {
	l.t.Helper()
	l.stop()
	l.wg.Wait()
	done, again := 0, 0
	for _, c := range l.clients {
		images = append(images, c.images...)
		done += c.done
		again += c.again
	}
	l.t.Logf("%d images, %d requests, %d of them again", len(images), done, again)
	if len(images) == 0 {
		l.t.Error("nothing was pushed: this tests nothing")
	}
	return images
}

// again returns how many requests had to be sent again. It is called after end.
func (l *load) again() (n int) {
	for _, c := range l.clients {
		n += c.again
	}
	return n
}

func (c *client) step() {
	if len(c.images) > 0 && c.rng.IntN(3) == 0 {
		c.pull(c.images[c.rng.IntN(len(c.images))])
		return
	}
	blobs := make([]content, 1+c.rng.IntN(3))
	for i := range blobs {
		blobs[i] = newContent(c.rng)
		if len(c.images) > 0 && c.rng.IntN(4) == 0 { // a layer that is there
			blobs[i] = c.images[c.rng.IntN(len(c.images))].blobs[0]
		}
		c.pushBlob(blobs[i])
	}
	// A few tags, so that they move.
	i := newImage(c.rng, c.repo, fmt.Sprint("t", c.rng.IntN(5)), blobs...)
	c.ask(http.StatusCreated, "PUT", c.path("manifests/"+i.tag), bytes.NewReader(i.manifest), harness.Header{"Content-Type": "application/vnd.oci.image.manifest.v1+json"})
	if !c.broken {
		c.images = append(c.images, i)
	}
}

func (c *client) path(rest string) string { return "/v2/" + c.repo + "/" + rest }

// try sends a request once. A failure that the client takes is an error; any other one breaks the client.
func (c *client) try(want int, method, path string, body io.Reader, headers ...harness.Header) (*harness.Response, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	resp, err := c.api.Try(ctx, method, path, body, headers...)
	switch {
	case err != nil && c.faults < brokenOnes:
		return nil, c.fail("%s %s: %v", method, path, err)
	case err != nil:
		return nil, err
	case resp.StatusCode == want:
		c.done++
		return resp, nil
	case resp.StatusCode == http.StatusServiceUnavailable && c.faults >= onlyBusy:
		if resp.Header.Get("Retry-After") == "" {
			return nil, c.fail("%s %s: 503 without Retry-After: %.300s", method, path, resp.Bytes)
		}
		return nil, errBusy
	}
	return nil, c.fail("%s %s: status %d, expected %d: %.300s", method, path, resp.StatusCode, want, resp.Bytes)
}

var errBusy, errBroken = errors.New("503"), errors.New("the test was told")

func (c *client) fail(format string, args ...any) error {
	if !c.broken {
		c.t.Errorf("%s: %s", c.repo, fmt.Sprintf(format, args...))
	}
	c.broken = true
	return errBroken
}

// until does something again while it fails.
func (c *client) until(do func() error) {
	for deadline := time.Now().Add(time.Minute); !c.broken; time.Sleep(50 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		c.again++
		if time.Now().After(deadline) {
			c.fail("still fails after a minute: %v", err)
		}
	}
}

// ask sends a request until it is answered.
func (c *client) ask(want int, method, path string, body io.ReadSeeker, headers ...harness.Header) (resp *harness.Response) {
	c.until(func() (err error) {
		if body == nil {
			resp, err = c.try(want, method, path, http.NoBody, headers...)
			return err
		}
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return c.fail("%v", err)
		}
		resp, err = c.try(want, method, path, body, headers...)
		return err
	})
	return resp
}

// pushBlob pushes a blob in one of the ways that clients have.
func (c *client) pushBlob(b content) {
	octets := harness.Header{"Content-Type": "application/octet-stream"}
	begin := func() (string, error) {
		resp, err := c.try(http.StatusAccepted, "POST", c.path("blobs/uploads/"), http.NoBody)
		if err != nil {
			return "", err
		}
		return resp.Path(), nil
	}
	way := c.rng.IntN(3)
	switch way {
	case 0: // as a whole, like containerd
		c.until(func() error {
			location, err := begin()
			if err == nil {
				_, err = c.try(http.StatusCreated, "PUT", harness.WithDigest(location, b.digest.String()), b.reader(), octets)
			}
			return err
		})
	case 1: // as a stream of unknown length, from the beginning if it breaks, like Docker
		c.until(func() error {
			location, err := begin()
			if err != nil {
				return err
			}
			resp, err := c.try(http.StatusAccepted, "PATCH", location, io.MultiReader(b.reader()), octets)
			if err == nil {
				_, err = c.try(http.StatusCreated, "PUT", harness.WithDigest(resp.Path(), b.digest.String()), http.NoBody)
			}
			return err
		})
	default: // in chunks, which go on where they were cut off
		var location string
		c.until(func() (err error) {
			location, err = begin()
			return err
		})
		chunk := 1 + c.rng.IntN(max(b.size, 1))
		c.until(func() error { return c.goOn(location, b, chunk) })
	}
}

// goOn asks how far an upload has come, and sends the rest.
func (c *client) goOn(location string, b content, chunk int) error {
	resp, err := c.try(http.StatusNoContent, "GET", location, nil)
	if err != nil {
		return err
	}
	at, ok := received(resp)
	if at == 1 {
		// It stands for nothing, too; the first byte shows which it is.
		at = 0
		if b.size > 0 {
			resp, err := c.api.Try(c.t.Context(), "PATCH", location, bytes.NewReader(b.bytes()[:1]), harness.Header{"Content-Range": "0-0"})
			switch {
			case err != nil:
				return err
			case resp.StatusCode == http.StatusServiceUnavailable:
				return errBusy
			case resp.StatusCode != http.StatusRequestedRangeNotSatisfiable && resp.StatusCode != http.StatusAccepted:
				return c.fail("the first byte of an upload: status %d: %.300s", resp.StatusCode, resp.Bytes)
			}
			at = 1
		}
	}
	if !ok || at > b.size {
		return c.fail("Range of the upload of %d bytes is %q", b.size, resp.Header.Get("Range"))
	}
	all := b.bytes()
	for at < b.size {
		end := min(at+chunk, b.size)
		_, err := c.try(http.StatusAccepted, "PATCH", location, bytes.NewReader(all[at:end]),
			harness.Header{"Content-Type": "application/octet-stream", "Content-Range": fmt.Sprintf("%d-%d", at, end-1)})
		if err != nil {
			return err
		}
		at = end
	}
	_, err = c.try(http.StatusCreated, "PUT", harness.WithDigest(location, b.digest.String()), http.NoBody)
	return err
}

// received reads how many bytes of an upload are there. One stands for none, too.
func received(resp *harness.Response) (n int, ok bool) {
	var last int
	if _, err := fmt.Sscanf(resp.Header.Get("Range"), "0-%d", &last); err != nil {
		return 0, false
	}
	return last + 1, true
}

// pull fetches an image and compares it.
func (c *client) pull(i image) {
	if resp := c.ask(http.StatusOK, "GET", "/v2/"+i.repo+"/manifests/"+i.digest.String(), nil); resp != nil && !bytes.Equal(resp.Bytes, i.manifest) {
		c.fail("manifest %s came back as %d bytes", i.digest, len(resp.Bytes))
	}
	b := i.blobs[c.rng.IntN(len(i.blobs))]
	if resp := c.ask(http.StatusOK, "GET", "/v2/"+i.repo+"/blobs/"+b.digest.String(), nil); resp != nil && !bytes.Equal(resp.Bytes, b.bytes()) {
		c.fail("blob %s of %d bytes came back as %d", b.digest, b.size, len(resp.Bytes))
	}
}

// verify looks for everything that was acknowledged at all nodes, large blobs at one of them.
func (c *cluster) verify(images []image) {
	c.t.Helper()
	c.verifyContent(images)
	tags := make(map[[2]string]string)
	for _, i := range images {
		tags[[2]string{i.repo, i.tag}] = i.digest.String() // the last one
	}
	for n := range c.nodes {
		for ref, want := range tags {
			resp, err := c.at(n).Try(c.t.Context(), "HEAD", "/v2/"+ref[0]+"/manifests/"+ref[1], nil)
			if err != nil || resp.Header.Get("Docker-Content-Digest") != want {
				c.t.Errorf("at node %d, %s is not %s (%v)", n, ref, want, err)
			}
		}
	}
}

// verifyContent is verify without the tags.
func (c *cluster) verifyContent(images []image) {
	c.t.Helper()
	var wg sync.WaitGroup
	for n := range c.nodes {
		wg.Go(func() {
			api, seen := c.at(n), make(map[string]bool)
			look := func(path string, want []byte) {
				if seen[path] {
					return
				}
				seen[path] = true
				resp, err := api.Try(c.t.Context(), "GET", path, nil)
				if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(resp.Bytes, want) {
					c.t.Errorf("node %d has lost %s of %d bytes (%v)", n, path, len(want), err)
				}
			}
			for k, i := range images {
				look("/v2/"+i.repo+"/manifests/"+i.digest.String(), i.manifest)
				for _, b := range i.blobs {
					if b.size <= 100_000 || k%len(c.nodes) == n {
						look("/v2/"+i.repo+"/blobs/"+b.digest.String(), b.bytes())
					}
				}
			}
		})
	}
	wg.Wait()
}
