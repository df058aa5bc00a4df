package server

import (
	"fmt"
	"time"
)

// check returns what is wrong with values that are well-formed each.
func (c *Config) check() []Problem {
	var problems []Problem
	require := func(ok bool, key, format string, args ...any) {
		if !ok {
			problems = append(problems, c.problem(key, fmt.Sprintf(format, args...)))
		}
	}
	atLeast := func(d Duration, least time.Duration, key string) {
		require(d.D() >= least, key, "%s is too short: it must be %s at least", d, Duration(least))
	}

	require(c.Listen != "", "listen", "an address is needed, such as 127.0.0.1:5000")
	if ip, ok := c.Listen.literal(); ok {
		if err := c.checkExposure(c.Listen, ip); err != nil {
			require(false, "listen", "%v", err)
		}
	}
	require(c.Data != "", "data", "a folder is needed, such as ./berth-data")

	l := c.Limits
	require(l.Manifest >= 4<<20, "limits.manifest", "%s is too small: clients count on 4MiB", l.Manifest)
	require(l.Manifest <= 256<<20, "limits.manifest", "%s is too large: manifests are held in memory, 256MiB at most", l.Manifest)
	require(l.Header >= 8<<10 && l.Header <= 16<<20, "limits.header", "%s must be between 8KiB and 16MiB", l.Header)
	require(l.Uploads >= 1, "limits.uploads", "%d must be at least 1", l.Uploads)
	require(l.Connections >= 1, "limits.connections", "%d must be at least 1", l.Connections)

	atLeast(c.Timeouts.Idle, time.Second, "timeouts.idle")
	atLeast(c.Timeouts.Header, time.Second, "timeouts.header")
	atLeast(c.Timeouts.KeepAlive, time.Second, "timeouts.keep_alive")
	atLeast(c.Uploads.Expire, time.Second, "uploads.expire")
	if c.Collection.Interval != 0 {
		atLeast(c.Collection.Interval, time.Second, "collection.interval")
	}

	m := c.Metrics
	if ip, ok := m.Listen.literal(); ok {
		if err := c.checkMetricsExposure(m.Listen, ip); err != nil {
			require(false, "metrics.listen", "%v", err)
		}
	}
	require(m.Listen != "" || !m.Token.IsSet(), "metrics.token", "this has no effect without metrics.listen")
	require(m.Listen != "" || !m.Profiles, "metrics.profiles", "this has no effect without metrics.listen")
	return problems
}

// problem says where the value of a setting comes from. The name of a flag or a variable
// is the setting's name already.
func (c *Config) problem(key, message string) Problem {
	where := c.sources[key]
	if where == "--"+FlagName(key) || where == envName(key) {
		key = ""
	}
	return Problem{Where: where, Key: key, Message: message}
}
