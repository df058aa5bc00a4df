//go:build linux

package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/berthregistry/berth/bench/content"
	"github.com/berthregistry/berth/bench/load"
	"github.com/berthregistry/berth/bench/peer"
	"github.com/berthregistry/berth/bench/report"
)

// listTags asks for all tags of a repository that has many, and for pages of 100 all over it.
func listTags(ctx context.Context, e *env) (result, error) {
	part := e.set.ManyTags()
	srv, err := e.servers.keep(ctx, "main", part)
	if err != nil {
		return result{}, err
	}
	path := "/v2/" + part.Manifests[0].Repository + "/tags/list"
	whole := lister{path: path, want: len(part.Manifests)}
	page := lister{path: path + "?n=100", want: 100, pages: 1}
	return e.times(ctx, srv, map[string]func(i int) lister{
		"whole": func(int) lister { return whole },
		"page": func(i int) lister {
			// 97 is prime to the number of places, so that pages begin everywhere.
			if at := i * 97 % (len(part.Manifests) - 100); at > 0 {
				page.path = path + "?n=100&last=" + part.Manifests[at-1].Tag
			}
			return page
		},
	})
}

// listRepositories asks for the whole catalog, at once and page by page.
func listRepositories(ctx context.Context, e *env) (result, error) {
	part := e.set.ManyRepositories()
	srv, err := e.servers.keep(ctx, "main", part)
	if err != nil {
		return result{}, err
	}
	n := len(part.Manifests)
	return e.times(ctx, srv, map[string]func(int) lister{
		"whole": func(int) lister { return lister{path: fmt.Sprintf("/v2/_catalog?n=%d", 2*n), want: n} },
		"pages": func(int) lister { return lister{path: "/v2/_catalog?n=100", want: n} },
	})
}

// firstPages compares what the first page of long lists costs with that of short ones.
func firstPages(ctx context.Context, e *env) (result, error) {
	manyTags, fewTags := e.set.ManyTags(), e.set.FewTags()
	srv, err := e.servers.keep(ctx, "main", manyTags, fewTags)
	if err != nil {
		return result{}, err
	}
	tags := func(p *content.Part) func(int) lister {
		path := "/v2/" + p.Manifests[0].Repository + "/tags/list?n=100"
		return func(int) lister { return lister{path: path, want: 100, pages: 1} }
	}
	r, err := e.times(ctx, srv, map[string]func(int) lister{"many": tags(manyTags), "few": tags(fewTags)})
	if err != nil {
		return result{}, err
	}
	r.figures["tags"] = r.figures["many"] / r.figures["few"]
	if e.set.Sizes.Large > 0 && e.peer.Name != peer.Berth {
		return r, nil // nobody else's catalog is filled that far
	}
	few, err := e.servers.keep(ctx, "few repositories", e.set.FewRepositories())
	if err != nil {
		return result{}, err
	}
	if e.set.Sizes.Large > 0 {
		srv, err = e.servers.keep(ctx, "large catalog", e.set.LargeCatalog())
	} else {
		srv, err = e.servers.keep(ctx, "main", e.set.ManyRepositories())
	}
	if err != nil {
		return result{}, err
	}
	catalog := map[string]func(int) lister{"page": func(int) lister { return lister{path: "/v2/_catalog?n=100", want: 100, pages: 1} }}
	ofMany, err := e.times(ctx, srv, catalog)
	if err != nil {
		return result{}, err
	}
	ofFew, err := e.times(ctx, few, catalog)
	if err != nil {
		return result{}, err
	}
	r.figures["repositories"] = ofMany.figures["page"] / ofFew.figures["page"]
	return r, nil
}

// times has one client get lists in turn for a while, and returns the median time of each, in ms.
func (e *env) times(ctx context.Context, srv *server, lists map[string]func(i int) lister) (result, error) {
	const atLeast = 3
	took := make(map[string][]float64)
	ops := 0
	cost, err := e.measure(ctx, srv, func() error {
		return load.Run(ctx, srv.Addr, 1, []load.Script{func(c *load.Client) error {
			end := time.Now().Add(e.plan.Duration)
			for i := 0; i < atLeast || time.Now().Before(end); i++ {
				for name, list := range lists {
					l := list(i)
					l.check = i == 0
					start := time.Now()
					if err := l.get(c); err != nil {
						return err
					}
					took[name] = append(took[name], time.Since(start).Seconds()*1000)
					ops++
				}
			}
			return nil
		}})
	})
	r := result{figures: make(map[string]float64), ops: ops, cost: cost}
	for name, t := range took {
		r.figures[name] = report.Median(t[1:]) // the first one was parsed, too
	}
	return r, err
}

// lister follows a list from page to page.
type lister struct {
	path  string
	want  int  // names that must come at least
	pages int  // 0 for all
	check bool // whether to look at what comes
}

func (l lister) get(c *load.Client) error {
	names := 0
	var body bytes.Buffer
	for page, path := 0, l.path; path != "" && (l.pages == 0 || page < l.pages); page++ {
		r := load.Request{Head: load.Head("GET", path)}
		if l.check {
			body.Reset()
			r.Sink = func(p []byte) { body.Write(p) }
		}
		resp, err := c.Expect(200, r)
		if err != nil {
			return err
		}
		path = next(resp.Header("Link"))
		if l.check {
			var list struct{ Tags, Repositories []string }
			if err := json.Unmarshal(body.Bytes(), &list); err != nil {
				return fmt.Errorf("%s: %w", l.path, err)
			}
			names += len(list.Tags) + len(list.Repositories)
		}
	}
	if l.check && names < l.want {
		return fmt.Errorf("%s: %d names instead of %d", l.path, names, l.want)
	}
	return nil
}

// next returns the target of a Link header such as </v2/_catalog?last=a&n=100>; rel="next".
func next(link string) string {
	_, rest, ok := strings.Cut(link, "<")
	target, _, ok2 := strings.Cut(rest, ">")
	if !ok || !ok2 {
		return ""
	}
	if _, rest, ok := strings.Cut(target, "://"); ok {
		_, path, _ := strings.Cut(rest, "/")
		return "/" + path
	}
	return target
}
