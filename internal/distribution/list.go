package distribution

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

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
	return h.list(w, req, `{"name":"`+string(req.repository)+`","tags":[`, func(after string, n int) ([]string, error) {
		return h.reg.Tags(req.http.Context(), req.repository, after, n)
	})
}

// listRepositories serves the catalog (api-v2.md#listing-repositories).
func (h *Handler) listRepositories(w *web.Response, req *request) error {
	return h.list(w, req, `{"repositories":[`, func(after string, n int) ([]string, error) {
		return h.reg.Repositories(req.http.Context(), after, n)
	})
}

// list writes names, whose letters need no escaping, in ASCII order. A page that
// was asked for by n ends with a Link if there is more; without n, the whole list is
// written as it is read, so that memory does not grow with it.
func (h *Handler) list(w *web.Response, req *request, head string, read func(after string, n int) ([]string, error)) error {
	n, err := req.pageSize(-1, maxPage)
	if err != nil {
		return err
	}
	after := req.query.Get("last")
	whole := n < 0
	if whole {
		n = streamPage
	}
	// One more than asked for tells whether there is more; it also finds an unknown repository for n=0.
	names, err := read(after, n+1)
	if err != nil {
		return err
	}
	hd := w.Header()
	hd.Set("Content-Type", "application/json")
	more := len(names) > n
	if more {
		names = names[:n]
	}
	out := make([]byte, 0, len(head)+24*len(names)+8)
	out = append(out, head...)
	if !whole || !more {
		if more && n > 0 {
			q := url.Values{"last": {names[n-1]}, "n": {strconv.Itoa(n)}}
			h.link(w, req.http.URL.EscapedPath(), q)
		}
		out = appendNames(out, names, true)
		out = append(out, "]}\n"...)
		hd.Set("Content-Length", strconv.Itoa(len(out)))
		_, err := w.Write(out)
		return err
	}
	for first := true; ; first = false {
		out = appendNames(out, names, first)
		if !more {
			out = append(out, "]}\n"...)
		}
		if _, err := w.Write(out); err != nil || !more {
			return err // a list that breaks off must not look whole
		}
		out = out[:0]
		if names, err = read(names[n-1], n+1); err != nil {
			return err
		}
		if more = len(names) > n; more {
			names = names[:n]
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
	names, err := h.reg.Search(req.http.Context(), term, n)
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
