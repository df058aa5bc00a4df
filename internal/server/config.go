package server

import (
	"net/netip"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/berthregistry/berth/internal/oci"
)

// Config is everything that can be set, and the manual of it: "berth config
// print" shows the comments below.
//
// Each setting has one name. In a YAML file, limits.manifest is the key
// manifest under the key limits; in the environment it is BERTH_LIMITS_MANIFEST;
// some are flags too, such as --log-level. A flag wins over the environment,
// the environment over the file, the file over the default. A name that is not
// known is an error, wherever it stands.
type Config struct {
	// Where to serve: HOST:PORT, :PORT for every address of this machine, or
	// unix:PATH for a socket that the process's user and group may connect to.
	// A host name is resolved once, at the start. HTTP/1.1 and HTTP/2 (h2c) are
	// both spoken.
	Listen Address `yaml:"listen"`

	// The folder that holds everything: database and blobs. It is made when it is
	// missing. Only one server at a time can use it.
	Data string `yaml:"data"`

	// Allow to listen beyond this machine, although there is neither access
	// control nor TLS: everyone who reaches the address can pull, push and delete.
	InsecureOpen bool `yaml:"insecure_open"`

	// The URL at which clients reach the registry, such as https://registry.example.com.
	// If it is set, the Location headers of answers are absolute and begin with it.
	// If not, they are relative, which suits every proxy that keeps the path.
	ExternalURL URL `yaml:"external_url"`

	// Networks or addresses of proxies, such as [10.0.0.0/8, "::1"], whose Forwarded
	// and X-Forwarded-* headers are believed.
	TrustedProxies []Network `yaml:"trusted_proxies"`

	// Which manifests may be pushed although content that they name is missing here:
	// none; index, where an index may name manifests that are not here, but an image
	// needs its config and layers; or all. Foreign layers may be missing always.
	Sparse Sparse `yaml:"sparse"`

	// Settings of some repositories. The first rule whose pattern matches the name counts.
	// A pattern is a name in which * stands for anything within a part between slashes,
	// ** for any number of parts, and {a,b} for either. Example:
	//
	//	repositories:
	//	  - match: mirror/**
	//	    sparse: all
	Repositories []RepositoryRule `yaml:"repositories"`

	// Whether clients can delete tags, manifests and blobs.
	Delete bool `yaml:"delete"`

	// Space to keep free on the file system of the data folder: a size, a share, or
	// both, of which the smaller counts. Pushes are refused when less is free; pulls go on.
	DiskReserve Reserve `yaml:"disk_reserve"`

	// What one client, or all of them, can make the server hold in memory.
	Limits Limits `yaml:"limits"`

	// How long to wait. There is no limit on a whole request, because a large layer
	// over a slow line takes hours and is welcome to.
	Timeouts Timeouts `yaml:"timeouts"`

	// Uploads that clients have begun.
	Uploads Uploads `yaml:"uploads"`

	// Removal of blobs that no manifest needs, while the registry is in use.
	Collection Collection `yaml:"collection"`

	// What is written to standard error.
	Log Log `yaml:"log"`

	// Measurements for Prometheus.
	Metrics MetricsConfig `yaml:"metrics"`

	sources map[string]string // by the setting's name; one that is missing has its default
}

// RepositoryRule sets what differs for the repositories that it matches.
type RepositoryRule struct {
	// The pattern of names.
	Match Pattern `yaml:"match"`
	// As the setting sparse.
	Sparse Sparse `yaml:"sparse"`
}

// Limits bound memory.
type Limits struct {
	// The largest manifest that is accepted. Clients count on 4MiB at least.
	Manifest Size `yaml:"manifest"`

	// The largest header of a request, all lines together. A longer one is answered with 431.
	Header Size `yaml:"header"`

	// How many blob uploads may send at the same time. One more is answered with 429 and
	// told when to try again.
	Uploads int `yaml:"uploads"`

	// How many connections may be open, a quarter of them without a complete request. For one
	// more, the connection that has waited longest is closed. If all are at work, the new
	// one waits.
	Connections int `yaml:"connections"`
}

// Timeouts are limits on waiting.
type Timeouts struct {
	// The longest pause between two pieces of a body that is received or sent; of one that is sent, up to a quarter longer.
	Idle Duration `yaml:"idle"`

	// The time that a client has to send the header of a request.
	Header Duration `yaml:"header"`

	// How long a connection stays open between two requests, or up to a quarter longer.
	KeepAlive Duration `yaml:"keep_alive"`

	// How long requests may go on after SIGTERM or SIGINT. What is not done by then is cut off.
	// A second signal ends the process at once.
	Stop Duration `yaml:"stop"`
}

// Uploads are about upload sessions.
type Uploads struct {
	// Remove an upload that nothing was sent to for this long.
	Expire Duration `yaml:"expire"`
}

// Collection is about unreferenced blobs.
type Collection struct {
	// How often to look for them; 0 turns the collection off.
	Interval Duration `yaml:"interval"`

	// Spare a blob that was pushed or mounted less than this long ago, because the
	// manifest that needs it may still be on its way.
	Grace Duration `yaml:"grace"`
}

// Log is about the log.
type Log struct {
	// The least severe messages to write: debug, info, warn or error.
	Level LogLevel `yaml:"level"`

	// text for people or json for machines.
	Format LogFormat `yaml:"format"`

	// Whether each request is logged, at level info.
	Access bool `yaml:"access"`
}

// MetricsConfig is about the second listener.
type MetricsConfig struct {
	// Where to serve /metrics, and /livez and /readyz a second time, as for the setting
	// listen; empty to serve no metrics. Beyond this machine it needs a token or insecure_open.
	Listen Address `yaml:"listen"`

	// If set, /metrics needs the header "Authorization: Bearer TOKEN". file:PATH
	// reads the token from a file.
	Token Secret `yaml:"token"`

	// Whether profiles of the process can be taken at /debug/pprof/ beside /metrics.
	Profiles bool `yaml:"profiles"`
}

// Default returns the configuration of "berth serve" without any settings.
func Default() *Config {
	return &Config{
		Listen:      "127.0.0.1:5000",
		Data:        "./berth-data",
		Sparse:      SparseIndex,
		Delete:      true,
		DiskReserve: Reserve{Bytes: 1 << 30, Percent: 5},
		Limits: Limits{
			Manifest:    4 << 20,
			Header:      32 << 10,
			Uploads:     256,
			Connections: 4096,
		},
		Timeouts: Timeouts{
			Idle:      Duration(time.Minute),
			Header:    Duration(10 * time.Second),
			KeepAlive: Duration(2 * time.Minute),
			Stop:      Duration(30 * time.Second),
		},
		Uploads:    Uploads{Expire: Duration(24 * time.Hour)},
		Collection: Collection{Interval: Duration(time.Hour), Grace: Duration(24 * time.Hour)},
		Log:        Log{Level: "info", Format: "text", Access: true},
	}
}

// SparseFor returns what may be missing from manifests of a repository. It
// allocates nothing and may be called concurrently.
func (c *Config) SparseFor(r oci.Repository) Sparse {
	for i := range c.Repositories {
		if doublestar.MatchUnvalidated(string(c.Repositories[i].Match), string(r)) {
			return c.Repositories[i].Sparse
		}
	}
	return c.Sparse
}

// Proxies returns the networks of trusted_proxies.
func (c *Config) Proxies() []netip.Prefix {
	var out []netip.Prefix
	for _, n := range c.TrustedProxies {
		out = append(out, n.Prefix)
	}
	return out
}
