//go:build bench && linux

package access

import (
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"testing"
	"time"

	"github.com/berthregistry/berth/bench/load"
	"github.com/berthregistry/berth/bench/report"
)

// TestTokens has 16 clients ask for tokens.
func TestTokens(t *testing.T) {
	const clients = 16
	tab := report.NewTable("access-tokens", "token to pull, by 16", "tokens/s", "server's µs per token", "median, ms", "99th percentile, ms")
	for _, d := range databases {
		r := startGuarded(t, d.url(t))
		r.fill("team/app")
		r.fill("open/app")
		r.manage("POST", "users", `{"name":"alice","password":"a good password"}`)
		r.manage("POST", "organizations/team/grants", `{"account":"alice","role":"reader"}`)
		secret := basic("team+ci", r.manage("POST", "organizations/team/robots/ci/secrets", "{}").Secret)
		form := url.Values{
			"grant_type": {"refresh_token"}, "service": {"berth"}, "client_id": {"bench"}, "scope": {"repository:team/app:pull"},
			"refresh_token": {r.refreshToken(basic("alice", "a good password"))},
		}.Encode()
		asked := []struct {
			name    string
			request load.Request
		}{
			{"robot by Basic", load.Request{Head: load.Head("GET", tokenPath("team/app"), "Authorization: "+secret)}},
			{"refresh token, POST", load.Request{
				Head: load.HeadWithLength("POST", "/token", int64(len(form)), "Content-Type: application/x-www-form-urlencoded"),
				Body: load.Body{Prefix: []byte(form)},
			}},
			{"anonymous", load.Request{Head: load.Head("GET", tokenPath("open/app"))}},
		}
		rate, cost, p50, p99 := new(report.Row), new(report.Row), new(report.Row), new(report.Row)
		for round := range *rounds + 1 {
			for _, a := range asked {
				var took []float64 // ms
				n, µs := measure(t, r, clients, func(c *load.Client, _ int, _ *rand.Rand) error {
					start := time.Now()
					_, err := c.Expect(200, a.request)
					took = append(took, time.Since(start).Seconds()*1000)
					return err
				})
				if round > 0 {
					rate.Add(a.name, n)
					cost.Add(a.name, µs)
					p50.Add(a.name, report.Quantile(took, 0.5))
					p99.Add(a.name, report.Quantile(took, 0.99))
				}
			}
		}
		for _, a := range asked {
			cells := []any{d.name + ": " + a.name}
			for _, row := range []*report.Row{rate, cost, p50, p99} {
				v, _ := row.Value(a.name)
				cells = append(cells, v)
			}
			tab.Add(cells...)
		}
	}
	show(t, tab)
}

// refreshToken returns what docker keeps in the place of a password.
func (r *registry) refreshToken(authorization string) string {
	r.t.Helper()
	status, answer := r.send("GET", tokenPath("team/app")+"&offline_token=true&client_id=bench", authorization, "", "")
	var body struct {
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(answer, &body); status != 200 || err != nil || body.Refresh == "" {
		r.t.Fatalf("refresh token: %d, %v: %s", status, err, answer)
	}
	return body.Refresh
}
