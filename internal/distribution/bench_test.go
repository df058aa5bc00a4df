package distribution

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/ratelimit"
)

// BenchmarkManifest compares what the server does for the pull of a manifest without access control, of a public one by nobody, and
// of a private one with a token and with a password; and without access control, but with rate limits.
func BenchmarkManifest(b *testing.B) {
	g := newGuarded(b)
	open := newWorldWith(b, Options{}, func(*meta.DB, *Options) {})
	plain := &guarded{world: open}
	plain.push("anonymous", "team/app", "1.0", "new")
	limited := newWorldWith(b, Options{}, func(_ *meta.DB, opts *Options) {
		plenty := ratelimit.Rate{Count: 1e9, Period: time.Second}
		opts.Limits = ratelimit.New(ratelimit.Options{Client: opts.Client, Anonymous: ratelimit.Rates{Requests: plenty, Pulls: plenty}, IPv4Bits: 32, IPv6Bits: 64})
	})
	(&guarded{world: limited}).push("anonymous", "team/app", "1.0", "new")
	for _, bb := range []struct {
		name       string
		handler    http.Handler
		repository string
		header     []string
	}{
		{"open", open.handler, "team/app", nil},
		{"limited", limited.handler, "team/app", nil},
		{"public", g.handler, "open/app", nil},
		{"token", g.handler, "team/app", g.bearer("reader", "repository:team/app:pull")},
		{"password", g.handler, "team/app", g.header("reader")},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req := httptest.NewRequest(http.MethodGet, "/v2/"+bb.repository+"/manifests/1.0", nil)
				if bb.header != nil {
					req.Header.Set(bb.header[0], bb.header[1])
				}
				rec := httptest.NewRecorder()
				bb.handler.ServeHTTP(rec, req)
				if rec.Code != http.StatusOK {
					b.Fatal(rec.Code, rec.Body)
				}
			}
		})
	}
}
