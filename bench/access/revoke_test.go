//go:build bench && linux

package access

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berthregistry/berth/bench/report"
)

// right is one that is given and taken away again and again.
type right struct {
	name string
	// less is how many times less often than others it is taken away, because giving it takes long.
	less int
	// give returns the Authorization headers by which one may pull from the repository, "" for none, and what takes that away.
	give func(r *registry, i int) (headers []string, take func())
}

const (
	ci    = "organizations/team/robots/ci"
	alice = "a good password of alice, the "
)

var rights = []right{
	{"secret of a robot revoked", 1, func(r *registry, _ int) ([]string, func()) {
		c := r.manage("POST", ci+"/secrets", "{}")
		secret := basic("team+ci", c.Secret)
		return []string{secret, bearer(r.token(secret, "team/app"))}, func() { r.manage("DELETE", fmt.Sprint(ci, "/secrets/", c.ID), "") }
	}},
	{"grant removed", 5, func(r *registry, _ int) ([]string, func()) {
		g := r.manage("POST", "organizations/team/grants", `{"account":"bob","role":"reader"}`)
		secret := basic("bob", r.secrets["bob"])
		return []string{secret, bearer(r.token(secret, "team/app"))}, func() { r.manage("DELETE", fmt.Sprint("organizations/team/grants/", g.ID), "") }
	}},
	{"member removed from a team", 5, func(r *registry, _ int) ([]string, func()) {
		const member = "organizations/team/teams/readers/members/bob"
		r.manage("PUT", member, "")
		secret := basic("bob", r.secrets["bob"])
		return []string{secret, bearer(r.token(secret, "team/app"))}, func() { r.manage("DELETE", member, "") }
	}},
	{"account disabled", 5, func(r *registry, _ int) ([]string, func()) {
		r.manage("PATCH", "users/carol", `{"disabled":false}`)
		secret := basic("carol", r.secrets["carol"])
		return []string{secret, bearer(r.token(secret, "team/app"))}, func() { r.manage("PATCH", "users/carol", `{"disabled":true}`) }
	}},
	{"password changed", 20, func(r *registry, i int) ([]string, func()) {
		r.forgive()
		password := basic("alice", fmt.Sprint(alice, i))
		return []string{password, bearer(r.token(password, "team/app"))}, func() {
			r.manage("PUT", "users/alice/password", fmt.Sprintf(`{"password":"%s%d"}`, alice, i+1))
		}
	}},
	{"public repository made private", 5, func(r *registry, _ int) ([]string, func()) {
		r.manage("PUT", "repositories/team/app", `{"visibility":"public"}`)
		return []string{"", bearer(r.token("", "team/app"))}, func() { r.manage("PUT", "repositories/team/app", `{"visibility":"private"}`) }
	}},
}

// TestRevocation takes rights away on one node and looks with the next request on another one whether they are gone, while others pull there by
// the same headers all the time. With SQLite there is one node, and its cache.
func TestRevocation(t *testing.T) {
	tab := report.NewTable("access-revocation", "taken away on one node, looked at on another", "times", "next requests", "requests beside them", "that were not refused")
	for _, d := range databases {
		url := d.url(t)
		here := startGuarded(t, url)
		there := here
		if url != "" {
			there = start(t, url, "BERTH_AUTH_ENABLED=true")
		}
		here.fill("team/app")
		here.people()
		for _, k := range rights {
			times := max(1, *changes/k.less)
			next, beside, stale := revoke(t, here, there, k, times)
			t.Logf("%s, %s: %d times, %d and %d requests, %d not refused", d.name, k.name, times, next, beside, stale)
			if stale > 0 {
				t.Errorf("%s, %s: %d of %d requests were not refused", d.name, k.name, stale, next+beside)
			}
			tab.Add(d.name+": "+k.name, times, next, beside, stale)
		}
	}
	show(t, tab)
}

// people makes the users whose rights are taken away.
func (r *registry) people() {
	r.manage("POST", "users", fmt.Sprintf(`{"name":"alice","password":"%s0"}`, alice))
	r.manage("POST", "organizations/team/grants", `{"account":"alice","role":"reader"}`)
	r.secrets = make(map[string]string)
	for _, name := range []string{"bob", "carol"} {
		r.manage("POST", "users", fmt.Sprintf(`{"name":%q}`, name))
		r.secrets[name] = r.manage("POST", "users/"+name+"/tokens", `{"name":"bench"}`).Secret
	}
	r.manage("POST", "organizations/team/grants", `{"account":"carol","role":"reader"}`)
}

// revoke takes a right away so many times, and counts the requests that began after the change was acknowledged: those that come next, those of
// others who pull all the time, and how many of all of them were not refused.
func revoke(t *testing.T, here, there *registry, k right, times int) (next, beside, stale int64) {
	t.Helper()
	pull := func(header string) int {
		status, _, err := there.try("GET", manifestPath("team/app", 0), header, "", "")
		if err != nil {
			t.Error(err)
		}
		return status
	}
	var given sync.RWMutex // held for writing while the right is given, so that no request takes the next one for the one before
	var current string     // the header that the others use
	var taken atomic.Bool  // the change was acknowledged
	var over atomic.Bool
	var besides, stales atomic.Int64
	var others sync.WaitGroup
	end := func() { over.Store(true); others.Wait() }
	defer end()
	for i := range times {
		var headers []string
		var take func()
		func() {
			given.Lock()
			defer given.Unlock() // also if giving it fails
			headers, take = k.give(here, i)
			for _, header := range headers {
				if status := pull(header); status != http.StatusOK { // now whatever can be remembered is
					t.Fatalf("%s: a pull was answered %d before the right was taken away", k.name, status)
				}
			}
			current = headers[i%len(headers)]
			taken.Store(false)
		}()
		if i == 0 {
			for range 4 {
				others.Go(func() {
					for !over.Load() && !t.Failed() {
						given.RLock()
						after := taken.Load()
						status := pull(current)
						given.RUnlock()
						if after {
							besides.Add(1)
						}
						if after && status == http.StatusOK {
							stales.Add(1)
						}
					}
				})
			}
		}
		take()
		taken.Store(true)
		for _, header := range headers {
			next++
			switch status := pull(header); status {
			case http.StatusOK:
				stales.Add(1)
			case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests:
			default:
				t.Fatalf("%s: a pull was answered %d", k.name, status)
			}
		}
	}
	end()
	return next, besides.Load(), stales.Load()
}
