package crash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// verify compares what the restarted server has with what the client was told.
func (c *client) verify() {
	c.t.Helper()
	if op := c.pending; op != nil {
		// Nobody was told of this one: either is right, but not something between.
		if op.happened() {
			op.apply()
		}
		c.pending = nil
	}
	for d, b := range c.repo.blobs {
		resp := c.get(c.repo.path("blobs/" + d.String()))
		if resp.StatusCode != http.StatusOK || !bytes.Equal(resp.Bytes, b.bytes()) {
			c.t.Errorf("%s: acknowledged blob %s of %d bytes: status %d, %d bytes", c.repo.name, d, b.size, resp.StatusCode, len(resp.Bytes))
		}
	}
	for _, d := range c.repo.never {
		if c.has("blobs/" + d.String()) {
			c.t.Errorf("%s: blob %s is there, though it was never pushed whole", c.repo.name, d)
		}
	}
	for d, m := range c.repo.manifests {
		resp := c.get(c.repo.path("manifests/" + d.String()))
		if resp.StatusCode != http.StatusOK || !bytes.Equal(resp.Bytes, m.body) || resp.Header.Get("Content-Type") != m.mediaType {
			c.t.Errorf("%s: acknowledged manifest %s: status %d, %d bytes", c.repo.name, d, resp.StatusCode, len(resp.Bytes))
		}
	}
	c.verifyTags()
	for _, u := range c.repo.uploads {
		c.verifyUpload(u)
	}
}

func (c *client) verifyTags() {
	c.t.Helper()
	var got []string
	if resp := c.get(c.repo.path("tags/list")); resp.StatusCode == http.StatusOK {
		var list struct{ Tags []string }
		if err := json.Unmarshal(resp.Bytes, &list); err != nil {
			c.t.Errorf("tags of %s: %v", c.repo.name, err)
		}
		got = list.Tags
	} else if resp.StatusCode != http.StatusNotFound {
		c.t.Errorf("tags of %s: status %d", c.repo.name, resp.StatusCode)
	}
	if want := slices.Sorted(maps.Keys(c.repo.tags)); !slices.Equal(got, want) {
		c.t.Errorf("tags of %s are %v, expected %v", c.repo.name, got, want)
	}
	for tag, d := range c.repo.tags {
		if got := c.digestOf("manifests/" + tag); got != d.String() {
			c.t.Errorf("%s:%s is %q, expected %s", c.repo.name, tag, got, d)
		}
	}
}

// verifyUpload asks how far an upload has come, for the client to go on from there.
func (c *client) verifyUpload(u *upload) {
	c.t.Helper()
	resp := c.get(u.location)
	var last int
	if _, err := fmt.Sscanf(resp.Header.Get("Range"), "0-%d", &last); err != nil || resp.StatusCode != http.StatusNoContent {
		c.t.Errorf("upload in %s: status %d, Range %q", c.repo.name, resp.StatusCode, resp.Header.Get("Range"))
		return
	}
	size := last + 1
	if last == 0 && u.sent == 0 {
		size = 0 // 0-0 stands for no byte, too
	}
	if size < u.sent || size > u.sent+u.flying {
		c.t.Errorf("upload in %s: %d bytes are left, %d were acknowledged and %d more sent", c.repo.name, size, u.sent, u.flying)
	}
	u.sent, u.flying = size, 0
}

// verifyLog compares the tag log with the moves that the client was told of.
func (c *client) verifyLog(db *meta.DB) {
	c.t.Helper()
	for tag, want := range c.repo.log {
		log, err := db.TagLog(c.t.Context(), oci.Repository(c.repo.name), oci.Tag(tag))
		if err != nil {
			c.t.Errorf("tag log of %s:%s: %v", c.repo.name, tag, err)
		}
		var got []move
		for _, m := range log {
			got = append(got, move{m.Old, m.New})
		}
		if !slices.Equal(got, want) {
			c.t.Errorf("the tag log of %s:%s is\n%v, expected\n%v", c.repo.name, tag, got, want)
		}
	}
}

// retire deletes everything in the repository, which then is gone.
func (c *client) retire() {
	c.t.Helper()
	expect := func(want int, method, path string) {
		c.t.Helper()
		if _, err := c.ask(c.t.Context(), want, method, path, nil); err == errDown {
			c.t.Errorf("%s %s: no answer", method, path)
		}
	}
	c.market.withdrawAll(c.repo.name)
	for _, u := range c.repo.uploads {
		expect(http.StatusNoContent, "DELETE", u.location)
	}
	for d := range c.repo.manifests {
		expect(http.StatusAccepted, "DELETE", c.repo.path("manifests/"+d.String()))
	}
	for d := range c.repo.blobs {
		expect(http.StatusAccepted, "DELETE", c.repo.path("blobs/"+d.String()))
	}
	expect(http.StatusNotFound, "GET", c.repo.path("tags/list"))
}
