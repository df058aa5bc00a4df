//go:build linux

package content

import (
	"fmt"
	"strings"

	"github.com/berthregistry/berth/bench/load"
)

// Pusher is how blobs get to a server.
type Pusher func(c *load.Client, repository string, b Blob) error

// PushBlob pushes by POST and one PUT, as containerd does.
func PushBlob(c *load.Client, repository string, b Blob) error {
	upload, err := begin(c, repository)
	if err != nil {
		return err
	}
	return finish(c, upload, b)
}

func begin(c *load.Client, repository string) (upload string, err error) {
	resp, err := c.Expect(202, load.Request{Head: load.HeadWithLength("POST", "/v2/"+repository+"/blobs/uploads/", 0)})
	if err != nil {
		return "", err
	}
	return resp.Target(), nil
}

// finish sends the whole blob with the closing PUT.
func finish(c *load.Client, upload string, b Blob) error {
	_, err := c.Expect(201, load.Request{
		Head: load.HeadWithLength("PUT", withDigest(upload, b.Digest), b.Body.Len(), "Content-Type: application/octet-stream"),
		Body: b.Body,
	})
	return err
}

func withDigest(upload, digest string) string {
	if strings.Contains(upload, "?") {
		return upload + "&digest=" + digest
	}
	return upload + "?digest=" + digest
}

// StreamBlob returns a Pusher that streams a PATCH without a length, as Docker does.
func (m *Maker) StreamBlob() Pusher {
	return func(c *load.Client, repository string, b Blob) error {
		upload, err := begin(c, repository)
		if err != nil {
			return err
		}
		resp, err := c.Expect(202, load.Request{
			Head: load.Head("PATCH", upload, "Transfer-Encoding: chunked", "Content-Type: application/octet-stream"),
			Body: m.Streamed(b),
		})
		if err != nil {
			return err
		}
		_, err = c.Expect(201, load.Request{Head: load.HeadWithLength("PUT", withDigest(resp.Target(), b.Digest), 0)})
		return err
	}
}

// PutBlob sends a blob by one PUT to where it will be; that is all the write limit understands.
func PutBlob(c *load.Client, repository string, b Blob) error {
	_, err := c.Expect(201, load.Request{Head: load.HeadWithLength("PUT", BlobPath(repository, b.Digest), b.Body.Len()), Body: b.Body})
	return err
}

// PushManifest puts a manifest under its tag.
func PushManifest(c *load.Client, m PlacedManifest) error {
	_, err := c.Expect(201, load.Request{
		Head: load.HeadWithLength("PUT", ManifestPath(m.Repository, m.Tag), int64(len(m.Body)), "Content-Type: "+m.Type),
		Body: load.Body{Prefix: m.Body},
	})
	return err
}

// Mount returns the request that links a blob of another repository.
func Mount(repository, from, digest string) load.Request {
	target := fmt.Sprintf("/v2/%s/blobs/uploads/?mount=%s&from=%s", repository, digest, from)
	return load.Request{Head: load.HeadWithLength("POST", target, 0)}
}

// mountOrPush links a blob; a server may choose to have it pushed instead.
func mountOrPush(c *load.Client, repository, from string, b Blob) error {
	resp, err := c.Do(Mount(repository, from, b.Digest))
	switch {
	case err != nil:
		return err
	case resp.Status == 201:
		return nil
	case resp.Status == 202:
		return finish(c, resp.Target(), b)
	}
	return fmt.Errorf("mount of %s from %s to %s: answered %d", b.Digest, from, repository, resp.Status)
}

// BlobPath returns the path of a blob.
func BlobPath(repository, digest string) string { return "/v2/" + repository + "/blobs/" + digest }

// ManifestPath returns the path of a manifest by tag or digest.
func ManifestPath(repository, reference string) string {
	return "/v2/" + repository + "/manifests/" + reference
}
