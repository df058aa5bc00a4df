package cluster

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// What one node has acknowledged, every other one knows at once: no cache lags behind.
func TestChangesAreSeenAtOnce(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	rng := rand.New(rand.NewPCG(3, 4))
	repo, other := name("seen"), name("seen-too")
	octets := harness.Header{"Content-Type": "application/octet-stream"}
	manifests := func(repo, ref string) string { return "/v2/" + repo + "/manifests/" + ref }
	var known []image
	for i := range 30 {
		writer, reader := c.at(i), c.at(i+1+rng.IntN(nodes-1))
		b := newContent(rng)
		location := writer.StartUpload(repo)
		writer.Expect(http.StatusCreated, "PUT", harness.WithDigest(location, b.digest.String()), b.bytes(), octets)
		reader.Expect(http.StatusOK, "HEAD", "/v2/"+repo+"/blobs/"+b.digest.String(), nil)

		img := newImage(rng, repo, "moving", b)
		for n := range nodes {
			c.at(n).Do("HEAD", manifests(repo, "moving"), nil) // what the cache would keep
		}
		writer.Expect(http.StatusCreated, "PUT", manifests(repo, "moving"), img.manifest, harness.Header{"Content-Type": "application/vnd.oci.image.manifest.v1+json"})
		for n := range nodes {
			resp := c.at(n).Expect(http.StatusOK, "GET", manifests(repo, "moving"), nil)
			if !bytes.Equal(resp.Bytes, img.manifest) {
				t.Fatalf("move %d: node %d still has the manifest of before", i, n)
			}
		}
		reader.Expect(http.StatusCreated, "POST", fmt.Sprintf("/v2/%s/blobs/uploads/?mount=%s&from=%s", other, b.digest, repo), nil)
		writer.Expect(http.StatusOK, "HEAD", "/v2/"+other+"/blobs/"+b.digest.String(), nil)
		known = append(known, img)
	}
	for i, img := range known {
		c.at(i).Expect(http.StatusAccepted, "DELETE", manifests(repo, img.digest.String()), nil)
		for n := range nodes {
			c.at(n).Expect(http.StatusNotFound, "GET", manifests(repo, img.digest.String()), nil)
		}
		if i == len(known)-1 {
			c.at(i+1).Expect(http.StatusNotFound, "GET", manifests(repo, "moving"), nil)
		}
	}
	c.fsck("--deep")
}

// Clients of several nodes move the same tag and push the same blobs; nothing is lost, and all nodes agree in the end.
func TestClientsOfSeveralNodesAtOnce(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	repo := name("together")
	b := makeContent(11, 300_000)
	done := make(chan []image)
	const writers = 6
	for w := range writers {
		api := c.at(w)
		go func() {
			rng := rand.New(rand.NewPCG(5, uint64(w)))
			var mine []image
			defer func() { done <- mine }()
			for range 15 {
				// The same digest from everyone: one of them wins, the others are told 201, too.
				resp, err := api.Try(t.Context(), "POST", "/v2/"+repo+"/blobs/uploads/?digest="+b.digest.String(), b.reader())
				if err != nil || resp.StatusCode != http.StatusCreated {
					t.Errorf("blob: %v, %v", resp, err)
					return
				}
				img := newImage(rng, repo, "shared", b)
				resp, err = api.Try(t.Context(), "PUT", "/v2/"+repo+"/manifests/shared", bytes.NewReader(img.manifest), harness.Header{"Content-Type": "application/vnd.oci.image.manifest.v1+json"})
				if err != nil || resp.StatusCode != http.StatusCreated {
					t.Errorf("manifest: %v, %v", resp, err)
					return
				}
				mine = append(mine, img)
			}
		}()
	}
	var all []image
	for range writers {
		all = append(all, <-done...)
	}
	var digests []string
	for n := range nodes {
		resp := c.at(n).Expect(http.StatusOK, "HEAD", "/v2/"+repo+"/manifests/shared", nil)
		digests = append(digests, resp.Header.Get("Docker-Content-Digest"))
	}
	if len(slices.Compact(digests)) != 1 || !slices.ContainsFunc(all, func(i image) bool { return i.digest.String() == digests[0] }) {
		t.Errorf("the nodes have the tag at %v", digests)
	}
	for _, i := range all {
		c.at(0).Expect(http.StatusOK, "HEAD", "/v2/"+repo+"/manifests/"+i.digest.String(), nil)
	}
	c.fsck("--deep")
}
