//go:build bench && linux

package access

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/berthregistry/berth/bench/load"
	"github.com/berthregistry/berth/bench/peer"
	"github.com/berthregistry/berth/bench/report"
)

// way is how manifests are pulled.
type way struct {
	name   string
	from   *registry
	of     string                  // the repository
	header func(client int) string // Authorization
	goal   float64                 // the least ratio to public; 0 for none
}

// The ways that others are compared with.
const (
	free   = "without access control"
	public = "anonymous, public repository"
)

// TestPulls compares pulls of manifests by 64 clients: of a server without access control, and of one with it by who does not sign in, by
// bearer tokens, a different one for each client, and by a robot that sends its secret with every request.
func TestPulls(t *testing.T) {
	const clients = 64
	tab := report.NewTable("access-pulls", "manifest GET by tag, by 64", "requests/s", "server's µs per request", "rate to that "+free, "rate to "+public, "µs to those "+free, "goal", "met")
	for _, d := range databases {
		open, guarded := start(t, d.url(t)), startGuarded(t, d.url(t))
		length := open.fill("team/app")
		guarded.fill("team/app")
		guarded.fill("open/app")
		secret := basic("team+ci", guarded.manage("POST", "organizations/team/robots/ci/secrets", "{}").Secret)
		var tokens [clients]string
		for i := range tokens {
			tokens[i] = bearer(guarded.token(secret, "team/app"))
		}
		nobody := func(int) string { return "" }
		ways := []way{
			{free, open, "team/app", nobody, 0},
			{public, guarded, "open/app", nobody, 0},
			{"bearer token", guarded, "team/app", func(i int) string { return tokens[i] }, 0.85},
			{"robot by Basic", guarded, "team/app", func(int) string { return secret }, 0.7},
		}
		rate, cost := new(report.Row), new(report.Row)
		others := usedByOthers(t, open, guarded)
		for round := range *rounds + 1 {
			for _, w := range ways {
				heads := make([][][]byte, clients)
				for i := range heads {
					for tag := range tags {
						header := []string{"Accept: application/vnd.oci.image.manifest.v1+json"}
						if a := w.header(i); a != "" {
							header = append(header, "Authorization: "+a)
						}
						heads[i] = append(heads[i], load.Head("GET", manifestPath(w.of, tag), header...))
					}
				}
				n, µs := measure(t, w.from, clients, func(c *load.Client, client int, rng *rand.Rand) error {
					resp, err := c.Expect(200, load.Request{Head: heads[client][rng.IntN(tags)]})
					if err == nil && resp.Length != length {
						err = fmt.Errorf("%d bytes instead of %d", resp.Length, length)
					}
					return err
				})
				if round > 0 {
					rate.Add(w.name, n)
					cost.Add(w.name, µs)
				}
			}
		}
		disturbed := others()
		for _, w := range ways {
			perSecond, _ := rate.Value(w.name)
			µs, _ := cost.Value(w.name)
			toFree, _ := rate.Ratio(w.name, free)
			toPublic, _ := rate.Ratio(w.name, public)
			costs, _ := cost.Ratio(w.name, free)
			goal, met := "", "–"
			if w.goal > 0 {
				goal, met = fmt.Sprintf("≥ %g", w.goal), "no"
				if toPublic.Median >= w.goal {
					met = "yes"
				}
				if disturbed > 0.4 { // processors: then rates are not to be trusted
					met = fmt.Sprintf("– (others used %.1f processors)", disturbed)
				}
			}
			tab.Add(d.name+": "+w.name, perSecond, µs, toFree, toPublic, costs, goal, met)
		}
	}
	show(t, tab)
}

// measure has clients do something for a while, and returns how often they did it in a second, and how many µs of processor time that cost the
// server each time.
func measure(t *testing.T, r *registry, clients int, do func(c *load.Client, client int, rng *rand.Rand) error) (rate, µs float64) {
	t.Helper()
	run := func(d time.Duration) int {
		n, err := load.For(t.Context(), r.addr, clients, d, do)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	run(*duration / 5)
	before := r.cpu()
	n := float64(run(*duration))
	return n / duration.Seconds(), (r.cpu() - before).Seconds() * 1e6 / n
}

// usedByOthers begins to count; the function that it returns tells how many processors others than the servers and this process used on average since.
func usedByOthers(t *testing.T, servers ...*registry) func() float64 {
	used := func() time.Duration {
		busy, err := peer.Busy()
		if err != nil {
			t.Fatal(err)
		}
		self, err := peer.Self()
		if err != nil {
			t.Fatal(err)
		}
		busy -= self
		for _, s := range servers {
			busy -= s.cpu()
		}
		return busy
	}
	start, before := time.Now(), used()
	return func() float64 { return (used() - before).Seconds() / time.Since(start).Seconds() }
}
