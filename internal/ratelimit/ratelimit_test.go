package ratelimit

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/web"
)

// world is a Limiter with a clock that the test sets.
type world struct {
	*testing.T
	*Limiter
	now     time.Time
	refused map[string]int
}

func newWorld(t *testing.T, opts Options) *world {
	w := &world{T: t, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), refused: make(map[string]int)}
	opts.Client = client
	opts.Now = func() time.Time { return w.now }
	opts.Refused = func(k Kind, account bool) { w.refused[fmt.Sprint(k, " ", account)]++ }
	if opts.IPv4Bits == 0 {
		opts.IPv4Bits, opts.IPv6Bits = 32, 64
	}
	w.Limiter = New(opts)
	return w
}

func client(r *http.Request) netip.Addr {
	if r.RemoteAddr == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(r.RemoteAddr)
}

func from(addr string) *http.Request { return &http.Request{RemoteAddr: addr} }

func answer() *web.Response { return &web.Response{ResponseWriter: httptest.NewRecorder()} }

// allowed counts how many of many are allowed.
func (w *world) allowed(most int, try func(*web.Response) error) (n int) {
	w.Helper()
	for range most {
		if try(answer()) == nil {
			n++
		}
	}
	return n
}

func (w *world) want(want int, what string, try func(*web.Response) error) {
	w.Helper()
	if got := w.allowed(100, try); got != want {
		w.Errorf("%s: %d were allowed, expected %d", what, got, want)
	}
}

func (w *world) requests(s Subject) func(*web.Response) error {
	return func(a *web.Response) error { return w.Request(a, s, "") }
}

func TestRefusal(t *testing.T) {
	w := newWorld(t, Options{Anonymous: Rates{Pulls: Rate{6, time.Hour}}, Accounts: Rates{Pulls: Rate{2, 3 * time.Second}}})
	network := w.Network(from("192.0.2.1"))
	w.want(6, "pulls of a network", func(a *web.Response) error { return w.Pull(a, network) })
	a := answer()
	err := w.Pull(a, network)
	e, ok := errors.AsType[*oci.Error](err)
	if !ok || e.HTTPStatus() != http.StatusTooManyRequests || e.Code != oci.CodeTooManyRequests {
		t.Fatalf("the error is %v", err)
	}
	h := a.Header()
	if got := h.Get("Retry-After"); got != "600" {
		t.Errorf("Retry-After is %q, expected the 600 seconds after which the next one comes back", got)
	}
	if h.Get("RateLimit-Limit") != "6;w=3600" || h.Get("RateLimit-Remaining") != "0;w=3600" {
		t.Errorf("the header is %v", h)
	}
	if a.Limited != "pulls of network 192.0.2.1/32" {
		t.Errorf("the access log would have %q", a.Limited)
	}
	account := w.Account(7, "ci", from("192.0.2.1"))
	w.want(2, "pulls of an account from that network", func(a *web.Response) error { return w.Pull(a, account) })
	if w.refused["pulls false"] != 95 || w.refused["pulls true"] != 98 {
		t.Errorf("refusals were counted as %v", w.refused)
	}
	// To be refused costs nothing: what comes back can be used, however often was asked meanwhile.
	w.now = w.now.Add(600 * time.Second)
	w.want(1, "pulls of a network, after what Retry-After says", func(a *web.Response) error { return w.Pull(a, network) })
	w.want(2, "pulls of an account, later", func(a *web.Response) error { return w.Pull(a, account) })
	w.want(100, "requests, which are not limited", w.requests(network))
}

// What a client is told is enough, to the second, for any rate.
func TestRetryAfterIsEnough(t *testing.T) {
	for _, r := range []Rate{{1, time.Second}, {3, time.Second}, {7, time.Minute}, {100, 6 * time.Hour}, {1, 30 * 24 * time.Hour}, {1e9, time.Second}} {
		w := newWorld(t, Options{Anonymous: Rates{Requests: r}})
		s := w.Network(from("192.0.2.1"))
		if r.Count > 1000 {
			w.want(100, "requests", w.requests(s))
			continue
		}
		for range r.Count {
			if err := w.Request(answer(), s, ""); err != nil {
				t.Fatalf("%v: %v", r, err)
			}
		}
		a := answer()
		if w.Request(a, s, "") == nil {
			t.Fatalf("%v: one more is allowed", r)
		}
		wait, err := strconv.Atoi(a.Header().Get("Retry-After"))
		if err != nil || wait < 1 {
			t.Fatalf("%v: Retry-After is %q", r, a.Header().Get("Retry-After"))
		}
		w.now = w.now.Add(time.Duration(wait) * time.Second)
		if err := w.Request(answer(), s, ""); err != nil {
			t.Errorf("%v: after Retry-After: %v", r, err)
		}
	}
}

func TestSubjects(t *testing.T) {
	w := newWorld(t, Options{
		Anonymous: Rates{Requests: Rate{3, time.Hour}}, Accounts: Rates{Requests: Rate{5, time.Hour}}, SignIns: Rate{4, time.Hour},
		IPv4Bits: 24, IPv6Bits: 56,
		ExemptNetworks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:ffff::/48")},
		ExemptAccounts: []string{"deploy"},
	})
	w.want(3, "an address", w.requests(w.Network(from("192.0.2.1"))))
	w.want(0, "another one of its network", w.requests(w.Network(from("192.0.2.200"))))
	w.want(3, "another network", w.requests(w.Network(from("192.0.3.1"))))
	w.want(3, "an address of IPv6", w.requests(w.Network(from("2001:db8::1"))))
	w.want(0, "another one of its network", w.requests(w.Network(from("2001:db8:0:ff::1"))))
	w.want(3, "another network of IPv6", w.requests(w.Network(from("2001:db8:0:100::1"))))
	w.want(3, "clients without address", w.requests(w.Network(from(""))))
	w.want(5, "an account", w.requests(w.Account(1, "a", from("192.0.2.1"))))
	w.want(0, "the same elsewhere", w.requests(w.Account(1, "a", from("198.51.100.1"))))
	w.want(5, "another one", w.requests(w.Account(2, "b", from("192.0.2.1"))))
	w.want(100, "an account that is exempt", w.requests(w.Account(3, "deploy", from("192.0.2.1"))))
	w.want(100, "a network that is exempt", w.requests(w.Network(from("10.1.2.3"))))
	w.want(100, "an account from there", w.requests(w.Account(1, "a", from("2001:db8:ffff::1"))))
	w.want(4, "sign-ins", func(a *web.Response) error { return w.SignIn(a, from("192.0.2.1"), false) })
	w.want(4, "sign-ins that were begun", func(a *web.Response) error { return w.SignIn(a, from("192.0.2.1"), true) })
	w.want(100, "sign-ins from a network that is exempt", func(a *web.Response) error { return w.SignIn(a, from("10.1.2.3"), false) })
	if got := w.Account(0, "", from("192.0.2.9")); got != w.Network(from("192.0.2.1")) {
		t.Errorf("who has not signed in is %v", &got)
	}
}

// What goes on may overdraw, up to a bound, and what begins waits for it.
func TestContinue(t *testing.T) {
	w := newWorld(t, Options{Accounts: Rates{Requests: Rate{10, 10 * time.Second}}})
	s := w.Account(1, "ci", from("192.0.2.1"))
	w.want(10, "requests", w.requests(s))
	w.want(10, "what goes on", func(a *web.Response) error { return w.Continue(a, s) })
	if err := w.BeginUpload(answer(), s, "app"); err != nil {
		t.Fatal(err)
	}
	w.want(0, "requests of a push, when all is overdrawn", func(a *web.Response) error { return w.Request(a, s, "app") })
	w.now = w.now.Add(4 * time.Second)
	w.want(0, "requests that begin", func(a *web.Response) error { return w.Request(a, s, "other") })
	w.want(4, "requests of a push", func(a *web.Response) error { return w.Request(a, s, "app") })
	w.EndPush(s, "app")
	w.now = w.now.Add(4 * time.Second)
	w.want(0, "requests of a push that has ended", func(a *web.Response) error { return w.Request(a, s, "app") })
	w.now = w.now.Add(6 * time.Second)
	w.want(0, "requests that begin, as long as it is overdrawn", w.requests(s))
	w.now = w.now.Add(3 * time.Second)
	w.want(3, "requests that begin, later", w.requests(s))
}

func TestPush(t *testing.T) {
	w := newWorld(t, Options{Accounts: Rates{Pushes: Rate{2, time.Minute}}})
	ci := w.Account(1, "ci", from("192.0.2.1"))
	upload := func(repository oci.Repository) func(*web.Response) error {
		return func(a *web.Response) error { return w.BeginUpload(a, ci, repository) }
	}
	manifest := func(repository oci.Repository) func(*web.Response) error {
		return func(a *web.Response) error { return w.PushManifest(a, ci, repository) }
	}
	w.want(100, "layers of one push", upload("a"))
	w.want(100, "layers of another one", upload("b"))
	w.want(0, "a third push", upload("c"))
	w.want(maxManifests, "manifests of the first, which cost nothing", manifest("a"))
	w.want(100, "layers of the second, still", upload("b"))
	w.EndPush(ci, "b")
	w.want(0, "the next push to the repository, after a tag was set", upload("b"))
	if err := w.PushManifest(answer(), ci, "elsewhere"); err != nil {
		t.Errorf("a manifest whose push was begun elsewhere: %v", err)
	}
	w.want(0, "a push, as long as that is overdrawn", upload("c"))
	w.now = w.now.Add(time.Minute)
	if err := w.BeginUpload(answer(), ci, "c"); err != nil {
		t.Errorf("a push, a minute later: %v", err)
	}
	w.now = w.now.Add(24 * time.Hour)
	for i := range 5 { // with nothing but manifests by tag, as one who moves tags
		err := w.PushManifest(answer(), ci, "tags")
		if (err == nil) != (i < 4) {
			t.Errorf("manifest %d: %v", i, err)
		}
		if err == nil {
			w.EndPush(ci, "tags")
		}
	}
}

// A push whose layers come at once is one push.
func TestParallelLayers(t *testing.T) {
	const pushes = 500
	w := newWorld(t, Options{Anonymous: Rates{Pushes: Rate{pushes, 30 * 24 * time.Hour}}})
	s := w.Network(from("192.0.2.1"))
	for i := range pushes {
		var refused atomic.Int64
		var ready, done sync.WaitGroup
		ready.Add(8)
		for range 8 {
			done.Go(func() {
				ready.Done()
				ready.Wait()
				if w.BeginUpload(answer(), s, oci.Repository("app"+strconv.Itoa(i))) != nil {
					refused.Add(1)
				}
			})
		}
		done.Wait()
		if n := refused.Load(); n != 0 {
			t.Fatalf("%d of the 8 layers of push %d were refused", n, i)
		}
	}
}

// However many addresses ask, memory is bounded, and no account is forgotten for them.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t, Options{Anonymous: Rates{Requests: Rate{1, time.Hour}, Pushes: Rate{1, time.Hour}}, Accounts: Rates{Requests: Rate{1, time.Hour}}, SignIns: Rate{1, time.Hour}})
	account := w.Account(1, "ci", from("192.0.2.1"))
	w.want(1, "an account", w.requests(account))
	victim := w.Network(from("192.0.2.1"))
	addr := netip.MustParseAddr("2001:db8::").As16()
	a := answer()
	for i := range 2 * maxSubjects {
		addr[5], addr[6], addr[7] = byte(i>>16), byte(i>>8), byte(i)
		r := from(netip.AddrFrom16(addr).String())
		s := w.Network(r)
		if w.Request(a, s, "") != nil || w.BeginUpload(a, s, "app") != nil || w.SignIn(a, r, false) != nil {
			t.Fatalf("network %d is refused at its first request", i)
		}
		if i%1000 == 0 {
			w.Request(a, victim, "") // who goes on asking is not forgotten
		}
	}
	if n := w.Subjects(); n != 2*maxSubjects+1 {
		t.Errorf("%d subjects are remembered", n)
	}
	if n := w.pushes.lru.Len(); n != maxSubjects {
		t.Errorf("%d pushes are remembered", n)
	}
	w.want(0, "the account, afterwards", w.requests(account))
	w.want(0, "the network that goes on asking, afterwards", w.requests(victim))
}

func TestNothingToLimit(t *testing.T) {
	l := New(Options{ExemptAccounts: []string{"a"}})
	if l != nil {
		t.Fatal("there is a Limiter")
	}
	a, r := answer(), from("192.0.2.1")
	s := l.Account(1, "a", r)
	if err := errors.Join(l.Request(a, s, ""), l.Continue(a, s), l.Pull(a, s), l.SignIn(a, r, false), l.BeginUpload(a, s, "x"), l.PushManifest(a, s, "x")); err != nil {
		t.Error(err)
	}
	l.ShowPulls(a, l.Network(r))
	l.EndPush(s, "x")
	if len(a.Header()) != 0 || l.Subjects() != 0 {
		t.Errorf("something is counted: %v", a.Header())
	}
}

func TestRacing(t *testing.T) {
	w := newWorld(t, Options{Anonymous: Rates{Requests: Rate{500, time.Hour}}})
	w.opts.Refused = nil
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 100 {
				if w.Request(answer(), w.Network(from("192.0.2.1")), "") == nil {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := allowed.Load(); n != 500 {
		t.Errorf("%d requests were allowed, expected 500", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	plenty := Rates{Requests: Rate{1e9, time.Second}, Pulls: Rate{1e9, time.Second}, Pushes: Rate{1e9, time.Second}}
	l := New(Options{Client: client, Anonymous: plenty, Accounts: plenty, IPv4Bits: 32, IPv6Bits: 64})
	r := from("192.0.2.1")
	b.Run("account", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			a := answer()
			for pb.Next() {
				if l.Request(a, l.Account(1, "ci", r), "") != nil {
					b.Fatal("refused")
				}
			}
		})
	})
	b.Run("network", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			a := answer()
			for pb.Next() {
				if l.Request(a, l.Network(r), "") != nil {
					b.Fatal("refused")
				}
			}
		})
	})
	b.Run("none", func(b *testing.B) {
		b.ReportAllocs()
		var none *Limiter
		a := answer()
		for b.Loop() {
			if none.Request(a, none.Network(r), "") != nil {
				b.Fatal("refused")
			}
		}
	})
}
