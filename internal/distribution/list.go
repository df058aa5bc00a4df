package distribution

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/web"
)

const (
	// maxPage is the largest page that a client gets at once.
	maxPage = 10_000
	// streamPage is how many names are read at a time for a list without end.
	streamPage = 2_000
	// maxReferrers and maxReferrersBytes bound a page of referrers, so that clients
	// that limit manifests to 4 MiB can read it.
	maxReferrers      = 1_000
	maxReferrersBytes = 2 << 20
)

// listTags serves end-8 (spec.md#listing-tags).
func (h *Handler) listTags(w *web.Response, req *request) error {
	return h.list(w, req, `{"name":"`+string(req.repository)+`","tags":[`, oneMore(func(after string, n int) ([]string, error) {
		return h.reg.Tags(req.http.Context(), req.repository, after, n)
	}))
}

// listRepositories serves the catalog (api-v2.md#listing-repositories): what the client may pull from.
func (h *Handler) listRepositories(w *web.Response, req *request) error {
	ctx := req.http.Context()
	if req.identity != nil {
		return h.list(w, req, catalogHead, func(after string, n int) ([]string, string, error) {
			return h.reg.Visible(ctx, h.viewer(req), "", after, n)
		})
	}
	return h.list(w, req, catalogHead, oneMore(func(after string, n int) ([]string, error) { return h.reg.Repositories(ctx, after, n) }))
}

const catalogHead = `{"repositories":[`

// viewer is who looks at lists of repositories.
func (h *Handler) viewer(req *request) meta.Viewer {
	return meta.Viewer{Account: req.identity.Account, Credential: req.identity.Credential, Client: req.identity.Client, Now: time.Now()}
}

// lister returns up to n names after the given one, and the name to go on after, empty if there are no more.
type lister func(after string, n int) (names []string, next string, err error)

// oneMore makes a lister that asks for one name more, which tells whether there is more. It also finds an unknown
// repository for n=0.
func oneMore(read func(after string, n int) ([]string, error)) lister {
	return func(after string, n int) ([]string, string, error) {
		names, err := read(after, n+1)
		if err != nil || len(names) <= n {
			return names, "", err
		}
		if n == 0 {
			return nil, "", nil
		}
		return names[:n], names[n-1], nil
	}
}

// list writes names, whose letters need no escaping, in ASCII order. A page that
// was asked for by n ends with a Link if there is more; without n, the whole list is
// written as it is read, so that memory does not grow with it.
func (h *Handler) list(w *web.Response, req *request, head string, read lister) error {
	n, err := req.pageSize(-1, maxPage)
	if err != nil {
		return err
	}
	whole := n < 0
	if whole {
		n = streamPage
	}
	names, next, err := read(req.query.Get("last"), n)
	if err != nil {
		return err
	}
	hd := w.Header()
	hd.Set("Content-Type", "application/json")
	out := make([]byte, 0, len(head)+24*len(names)+8)
	out = append(out, head...)
	if !whole || next == "" {
		if next != "" {
			h.link(w, req.http.URL.EscapedPath(), url.Values{"last": {next}, "n": {strconv.Itoa(n)}})
		}
		out = appendNames(out, names, true)
		out = append(out, "]}\n"...)
		hd.Set("Content-Length", strconv.Itoa(len(out)))
		_, err := w.Write(out)
		return err
	}
	for first := true; ; {
		out = appendNames(out, names, first)
		first = first && len(names) == 0
		if next == "" {
			out = append(out, "]}\n"...)
		}
		if _, err := w.Write(out); err != nil || next == "" {
			return err // a list that breaks off must not look whole
		}
		out = out[:0]
		if names, next, err = read(next, n); err != nil {
			return err
		}
	}
}

func appendNames(out []byte, names []string, first bool) []byte {
	for _, s := range names {
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(out, '"')
		out = append(out, s...)
		out = append(out, '"')
	}
	return out
}

// link tells where the next page is (RFC 5988).
func (h *Handler) link(w *web.Response, path string, q url.Values) {
	w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, h.location(path), q.Encode()))
}

// listReferrers serves end-12 (spec.md#listing-referrers). Manifests that clients list under the
// referrers tag of a subject are found like all others, by their subject field.
func (h *Handler) listReferrers(w *web.Response, req *request) error {
	n, err := req.pageSize(maxReferrers, maxReferrers)
	if err != nil {
		return err
	}
	n = max(n, 1)
	var after int64
	if s := req.query.Get("last"); s != "" {
		if after, err = strconv.ParseInt(s, 10, 64); err != nil {
			return oci.Errorf(oci.CodeUnsupported, "the parameter last is %.100q; it is taken from the Link of a page, not made", s).
				WithStatus(http.StatusBadRequest)
		}
	}
	artifactType := req.query.Get("artifactType")
	found, more, err := h.reg.Referrers(req.http.Context(), req.repository, req.digest, artifactType, after, n, maxReferrersBytes)
	if err != nil {
		return err
	}
	index := struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Manifests     []oci.Descriptor `json:"manifests"`
	}{2, oci.MediaTypeIndex, []oci.Descriptor{}}
	for _, f := range found {
		index.Manifests = append(index.Manifests, f.Descriptor)
	}
	hd := w.Header()
	if artifactType != "" {
		hd.Set("OCI-Filters-Applied", "artifactType")
	}
	if more {
		q := url.Values{"last": {strconv.FormatInt(found[len(found)-1].ID, 10)}, "n": {strconv.Itoa(n)}}
		if artifactType != "" {
			q.Set("artifactType", artifactType)
		}
		h.link(w, req.http.URL.EscapedPath(), q)
	}
	body, err := json.Marshal(index)
	if err != nil {
		return err
	}
	hd.Set("Content-Type", oci.MediaTypeIndex)
	hd.Set("Content-Length", strconv.Itoa(len(body)))
	_, err = w.Write(body)
	return err
}

// searchPing tells Docker that the registry can be searched.
func (h *Handler) searchPing(w *web.Response, _ *request) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Docker-Registry-Version", "0.9.1")
	_, err := w.Write([]byte("{}"))
	return err
}

// search answers docker search HOST/TERM and podman search.
func (h *Handler) search(w *web.Response, req *request) error {
	n, err := req.pageSize(25, 100)
	if err != nil {
		return err
	}
	term := req.query.Get("q")
	names, err := h.find(req, term, n)
	if err != nil {
		return err
	}
	type result struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		StarCount   int    `json:"star_count"`
		IsOfficial  bool   `json:"is_official"`
		IsAutomated bool   `json:"is_automated"`
	}
	results := make([]result, len(names))
	for i, name := range names {
		results[i].Name = name
	}
	body, err := json.Marshal(map[string]any{
		"query": term, "num_results": len(results), "num_pages": 1, "page": 1, "page_size": n, "results": results,
	})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, err = w.Write(body)
	return err
}

// maxFind is how many pages a search reads for who does not see all repositories.
const maxFind = 10

// find returns up to n names that contain term, of repositories that the client may pull from.
func (h *Handler) find(req *request, term string, n int) ([]string, error) {
	ctx := req.http.Context()
	if req.identity == nil {
		return h.reg.Search(ctx, term, n)
	}
	var found []string
	after := ""
	for range maxFind {
		names, next, err := h.reg.Visible(ctx, h.viewer(req), term, after, n-len(found))
		if err != nil {
			return nil, err
		}
		found = append(found, names...)
		if next == "" || len(found) >= n {
			break
		}
		after = next
	}
	return found, nil
}
