package server

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func FuzzConfig(f *testing.F) {
	f.Add("listen: :5000\ninsecure_open: true\n", "BERTH_LOG_LEVEL=debug")
	f.Add("repositories: &r\n  - {match: a/**, sparse: all}\ntrusted_proxies: [10.0.0.0/8]\n", "BERTH_REPOSITORIES=[{match: a, sparse: all}]")
	f.Add("limits: {manifest: 8MiB}\ntimeouts: {idle: 1d}\ndisk_reserve: 1GiB or 5%\n", "BERTH_DISK_RESERVE=99.9%")
	f.Add("data: *a\n--- !!map {}\n", "BERTH_LIMITS_HEADER=1.5MiB")
	f.Fuzz(func(t *testing.T, text, entry string) {
		if strings.Contains(text+entry, "file:") || strings.Contains(entry, "BERTH_CONFIG") {
			t.Skip("reads any file")
		}
		c := Default()
		c.sources = make(map[string]string)
		problems := c.readYAML("f", []byte(text))
		for _, p := range problems {
			if !strings.HasPrefix(p.Where, "f:") || p.Message == "" {
				t.Fatalf("%q gives %+v", text, p)
			}
		}
		if _, err := Load(Places{Env: []string{entry}}); err != nil && err.Error() == "" {
			t.Fatal("an error without text")
		}
		if len(problems) > 0 || len(c.check()) > 0 {
			return
		}
		var out bytes.Buffer
		if err := c.Print(&out); err != nil {
			t.Fatal(err)
		}
		again := Default()
		again.sources = make(map[string]string)
		if problems := again.readYAML("printed", out.Bytes()); len(problems) > 0 {
			t.Fatalf("%v\n%s", problems, out.String())
		}
		c.sources, again.sources = nil, nil
		again.Metrics.Token = c.Metrics.Token // which is not printed
		if c.text() != again.text() {
			t.Fatalf("printed and read: %s\nwant %s", again.text(), c.text())
		}
	})
}

// text shows a configuration for comparison; an empty list is a missing one.
func (c *Config) text() string {
	var b strings.Builder
	for _, s := range c.settings() {
		fmt.Fprintf(&b, "%s=%q\n", s.key, fmt.Sprint(s.value.Interface()))
	}
	return b.String()
}
