package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/ratelimit"
)

// RateLimits are about how often a client may ask. A rate is COUNT/PERIOD, such as 100/6h or 50/s: so many at once, which come back
// evenly over the period. What is beyond is answered with 429 and told when to try again. An empty rate is no limit. Each node counts for itself.
type RateLimits struct {
	// For each network of clients that have not signed in; without access control, for all clients.
	Anonymous ClientRates `yaml:"anonymous"`

	// For each account.
	Accounts ClientRates `yaml:"accounts"`

	// How many tokens a network may ask for, and how often it may try to sign in. Clients ask for a token with each
	// push and pull, and many of them may share an address.
	SignIn Rate `yaml:"sign_in"`

	// How many bits of an IPv4 address are the network that is counted: 32 for each address by itself.
	IPv4Prefix int `yaml:"ipv4_prefix"`

	// How many bits of an IPv6 address are the network that is counted. One customer mostly has 64, or as few as 48.
	IPv6Prefix int `yaml:"ipv6_prefix"`

	// Networks or addresses whose clients are never counted, signed in or not.
	ExemptNetworks []Network `yaml:"exempt_networks"`

	// Names of accounts that are never counted.
	ExemptAccounts []string `yaml:"exempt_accounts"`
}

// ClientRates are the rates of one client.
type ClientRates struct {
	// All requests but these: health checks, parts of blobs (Range), and the first request of a client, which asks how to sign in.
	Requests Rate `yaml:"requests"`

	// Manifests that are pulled (GET; to look with HEAD costs none). An image for several platforms is two: the index and the image.
	Pulls Rate `yaml:"pulls"`

	// Pushes that are begun. What a client sends to a repository is one push until a tag is set, and one that was begun may end.
	Pushes Rate `yaml:"pushes"`
}

func defaultRateLimits() RateLimits { return RateLimits{IPv4Prefix: 32, IPv6Prefix: 64} }

// Rate is how often something is allowed; the zero Rate is no limit.
type Rate struct{ ratelimit.Rate }

// The largest rate that can be counted.
const (
	maxRateCount  = 1_000_000_000
	maxRatePeriod = 30 * 24 * time.Hour
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rate) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*r = Rate{}
		return nil
	}
	count, period, ok := strings.Cut(string(b), "/")
	n, err := strconv.Atoi(count)
	if period != "" && strings.Contains("smhd", period) {
		period = "1" + period // one of them alone
	}
	var d Duration
	if !ok || err != nil || d.UnmarshalText([]byte(period)) != nil {
		return fmt.Errorf("%q is not a rate: write COUNT/PERIOD, such as 100/6h or 50/s, or nothing for no limit", clip(b))
	}
	switch {
	case n < 1 || n > maxRateCount:
		return fmt.Errorf("%q must allow between 1 and %d; write nothing for no limit", clip(b), maxRateCount)
	case d.D() < time.Second || d.D() > maxRatePeriod:
		return errors.New("the period must be between 1s and 30d")
	}
	r.Count, r.Period = n, d.D()
	return nil
}

// String returns the form that UnmarshalText reads.
func (r Rate) String() string {
	if r.Count == 0 {
		return ""
	}
	return strconv.Itoa(r.Count) + "/" + Duration(r.Period).String()
}

// MarshalText implements encoding.TextMarshaler.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (c ClientRates) rates() ratelimit.Rates {
	return ratelimit.Rates{Requests: c.Requests.Rate, Pulls: c.Pulls.Rate, Pushes: c.Pushes.Rate}
}

// limiter returns what counts requests, or nil if nothing is limited.
func (r *RateLimits) limiter(client func(*http.Request) netip.Addr, refused func(ratelimit.Kind, bool)) *ratelimit.Limiter {
	var exempt []netip.Prefix
	for _, n := range r.ExemptNetworks {
		exempt = append(exempt, n.Prefix)
	}
	return ratelimit.New(ratelimit.Options{
		Client:         client,
		Anonymous:      r.Anonymous.rates(),
		Accounts:       r.Accounts.rates(),
		SignIns:        r.SignIn.Rate,
		IPv4Bits:       r.IPv4Prefix,
		IPv6Bits:       r.IPv6Prefix,
		ExemptNetworks: exempt,
		ExemptAccounts: r.ExemptAccounts,
		Refused:        refused,
	})
}

// checkRateLimits looks at the limits on clients.
func (c *Config) checkRateLimits(require func(ok bool, key, format string, args ...any)) {
	r, def := c.RateLimits, defaultRateLimits()
	const section = "rate_limits."
	byNetwork := r.Anonymous != ClientRates{} || r.SignIn != Rate{}
	if !byNetwork && r.Accounts == (ClientRates{}) {
		defaults := settings(reflect.ValueOf(&def).Elem(), section)
		for i, set := range settings(reflect.ValueOf(&r).Elem(), section) {
			require(text(set.value) == text(defaults[i].value), set.key, "this has no effect without a rate")
		}
		return
	}
	if !c.Auth.Enabled {
		for _, set := range settings(reflect.ValueOf(&r.Accounts).Elem(), section+"accounts.") {
			require(text(set.value) == "", set.key, "this has no effect without auth.enabled")
		}
		require(r.SignIn == Rate{}, section+"sign_in", "this has no effect without auth.enabled")
		require(len(r.ExemptAccounts) == 0, section+"exempt_accounts", "this has no effect without auth.enabled")
	}
	require(r.IPv4Prefix >= 8 && r.IPv4Prefix <= 32, section+"ipv4_prefix", "%d must be between 8 and 32", r.IPv4Prefix)
	require(r.IPv6Prefix >= 16 && r.IPv6Prefix <= 128, section+"ipv6_prefix", "%d must be between 16 and 128", r.IPv6Prefix)
	_, socket := c.Listen.Unix()
	require(!socket || !byNetwork || len(c.TrustedProxies) > 0, "trusted_proxies",
		"rates by network need the addresses of clients, which have none at a Unix socket: name the networks of your proxies, or 127.0.0.1 if there is but the one at the socket")
}
