package server

import (
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/ratelimit"
)

func TestRates(t *testing.T) {
	for in, want := range map[string]ratelimit.Rate{
		"":              {},
		"100/6h":        {Count: 100, Period: 6 * time.Hour},
		"50/s":          {Count: 50, Period: time.Second},
		"600/m":         {Count: 600, Period: time.Minute},
		"1/h":           {Count: 1, Period: time.Hour},
		"5/d":           {Count: 5, Period: 24 * time.Hour},
		"10/1h30m":      {Count: 10, Period: 90 * time.Minute},
		"1000000000/1s": {Count: 1_000_000_000, Period: time.Second},
	} {
		var r, again Rate
		if err := r.UnmarshalText([]byte(in)); err != nil || r.Rate != want {
			t.Errorf("%q: %+v, %v", in, r, err)
		}
		if err := again.UnmarshalText([]byte(r.String())); err != nil || again != r {
			t.Errorf("%q is shown as %q, which is %+v, %v", in, r, again, err)
		}
	}
	for _, in := range []string{"100", "100/", "/1h", "0/1h", "-1/1h", "1.5/1h", "10/0", "10/500ms", "10/31d", "10/x", "10/1h/1h", "1000000001/s", "10 / 1h", "off", "10/sm"} {
		r := Rate{ratelimit.Rate{Count: 7, Period: time.Hour}}
		if err := r.UnmarshalText([]byte(in)); err == nil || r.Count != 7 {
			t.Errorf("%q: %+v, %v", in, r, err)
		}
	}
}

func TestRateLimitSettings(t *testing.T) {
	for text, want := range map[string]string{
		"rate_limits: {anonymous: {pulls: 100/6h}}":                                                             "",
		"rate_limits: {accounts: {pulls: 100/6h}, sign_in: 10/s, exempt_accounts: [ci]}\nauth: {enabled: true}": "",
		"rate_limits: {anonymous: {pulls: often}}":                                                              `rate_limits.anonymous.pulls: "often" is not a rate`,
		"rate_limits: {anonymous: {pull: 1/s}}":                                                                 "did you mean rate_limits.anonymous.pulls?",
		"rate_limits: {accounts: {pulls: 100/6h}}":                                                              "rate_limits.accounts.pulls: this has no effect without auth.enabled",
		"rate_limits: {sign_in: 100/6h}":                                                                        "rate_limits.sign_in: this has no effect without auth.enabled",
		"rate_limits: {anonymous: {pulls: 1/s}, exempt_accounts: [ci]}":                                         "rate_limits.exempt_accounts: this has no effect without auth.enabled",
		"rate_limits: {exempt_networks: [10.0.0.0/8]}":                                                          "rate_limits.exempt_networks: this has no effect without a rate",
		"rate_limits: {ipv6_prefix: 48}":                                                                        "rate_limits.ipv6_prefix: this has no effect without a rate",
		"rate_limits: {anonymous: {pulls: 1/s}, ipv4_prefix: 33}":                                               "rate_limits.ipv4_prefix: 33 must be between 8 and 32",
		"rate_limits: {anonymous: {pulls: 1/s}, ipv6_prefix: 8}":                                                "rate_limits.ipv6_prefix: 8 must be between 16 and 128",
		"listen: unix:/run/berth.sock\nrate_limits: {anonymous: {pulls: 1/s}}":                                  "rates by network need the addresses of clients",
		"listen: unix:/run/berth.sock\ntrusted_proxies: [127.0.0.1]\nrate_limits: {anonymous: {pulls: 1/s}}":    "",
		"listen: unix:/run/berth.sock\nauth: {enabled: true}\nrate_limits: {accounts: {pulls: 1/s}}":            "",
	} {
		_, err := Load(Places{File: writeConfig(t, text)})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s\ngives %v, expected %q", text, err, want)
		}
	}
}
