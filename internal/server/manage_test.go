package server

import (
	"maps"
	"testing"
	"time"
)

func TestOwnURL(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"http://127.0.0.1:5000":        func(*Config) {},
		"http://localhost:80":          func(c *Config) { c.Listen = ":80" },
		"http://localhost:5000":        func(c *Config) { c.Listen = "[::]:5000" },
		"http://[::1]:5000":            func(c *Config) { c.Listen = "[::1]:5000" },
		"http://HOST":                  func(c *Config) { c.Listen = "unix:/run/berth.sock" },
		"https://localhost:443":        func(c *Config) { c.Listen, c.TLS.Certificate = "0.0.0.0:443", "server.crt" },
		"https://registry.example:443": func(c *Config) { c.Listen, c.TLS.ACME.Hosts = ":443", []HostName{"registry.example"} },
		"https://hub.example":          func(c *Config) { c.Listen, c.ExternalURL = ":80", "https://hub.example" },
	} {
		c := Default()
		change(c)
		if got := c.ownURL(); got != want {
			t.Errorf("%s, expected %s", got, want)
		}
	}
}

// Sign-ins end where nobody would notice that an account has gone.
func TestSignInLifetimes(t *testing.T) {
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		change func(*AuthConfig)
		want   map[string]time.Duration
	}{
		"a provider":                {func(a *AuthConfig) { a.OIDC = []OIDCConfig{{Name: "corp"}} }, map[string]time.Duration{"oidc:corp": 30 * day}},
		"a provider with a limit":   {func(a *AuthConfig) { a.OIDC = []OIDCConfig{{Name: "corp", SignInLifetime: Duration(day)}} }, map[string]time.Duration{"oidc:corp": day}},
		"a directory":               {func(a *AuthConfig) { a.LDAP.UserBase = "dc=a" }, nil},
		"a directory with a limit":  {func(a *AuthConfig) { a.LDAP.SignInLifetime = Duration(day) }, map[string]time.Duration{"ldap": day}},
		"nobody looks":              {func(a *AuthConfig) { a.SyncInterval = 0 }, map[string]time.Duration{"ldap": 30 * day}},
		"nobody may look":           {func(a *AuthConfig) { a.LDAP.UserDN = "uid={{name}}" }, map[string]time.Duration{"ldap": 30 * day}},
		"somebody may look by name": {func(a *AuthConfig) { a.LDAP.UserDN, a.LDAP.BindDN = "uid={{name}}", "cn=berth" }, nil},
	} {
		a := defaultAuth()
		test.change(&a)
		if got := a.signInLifetimes(); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, expected %v", name, got, test.want)
		}
	}
}
