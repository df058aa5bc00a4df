package server

import "testing"

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
