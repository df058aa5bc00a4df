// Package upstream is the client of another registry: the one that a command of
// the command line works on, that an image is copied from or to, or that is
// cached by pulling through it.
//
// What holds true: credentials go to the host that the Client was made for and to
// the token endpoint that this host names, and to nobody else; a host that the
// registry names (a token endpoint, a redirect) is not reached at an address
// more private than the registry's own; bytes are handed on exactly as they
// came, and what is asked for by digest is checked against it; a transfer that
// breaks off goes on where it stopped. All types are safe for concurrent use
// unless they say otherwise.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"iter"
	"net/http"
	"sync/atomic"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/berthregistry/berth/internal/oci"
)

// Bounds on what a registry can make the client hold in memory or ask for.
const (
	maxManifest = 16 << 20 // bytes of a manifest, or of a page of a listing
	pageSize    = 1000     // names asked for at once; registries may answer with fewer
)

// Options say how a registry is reached. The zero value is HTTPS, verified with
// the system's certificates, and anonymous.
type Options struct {
	PlainHTTP bool           // speak HTTP without TLS
	Insecure  bool           // do not verify the server's certificate
	CA        *x509.CertPool // trusted in place of the system's certificates, if not nil
	// Certificate, if not nil, proves to the registry who the client is. No other host that the registry names is shown it.
	Certificate *tls.Certificate
	Credential  CredentialFunc // nil for anonymous
	UserAgent   string
	// Inspect asks a Berth not to count what is read as pulled: somebody looks, and nobody uses it.
	Inspect bool
}

// Client speaks to one registry.
type Client struct {
	host          string // as the user writes it
	http          *http.Client
	conns, others *http.Transport    // to the registry, and to hosts that it names; the same if there is no difference
	tmpl          registry.Reference // Registry alone
	base          string             // scheme://host that requests go to
	unproven      *atomic.Bool       // the registry, or a host that it named, wanted a certificate and was shown none
}

// New returns a client of the registry at host, which is "name" or "name:port".
// A host on the loopback interface is asked once whether it speaks TLS, and is spoken to in
// plain HTTP if not; any other host speaks TLS unless opt.PlainHTTP says otherwise,
// and is not contacted by New.
func New(ctx context.Context, host string, opt Options) (*Client, error) {
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	ref := registry.Reference{Registry: host}
	if err := ref.ValidateRegistry(); err != nil {
		return nil, fmt.Errorf("%q is not the host of a registry: write NAME or NAME:PORT", host)
	}
	unproven := new(atomic.Bool)
	tlsConfig := opt.tls(unproven)
	plain := opt.PlainHTTP
	if !plain && isLoopbackName(host) {
		tls, err := speaksTLS(ctx, host, tlsConfig)
		if err != nil {
			return nil, err
		}
		plain = !tls
	}
	base := "https://" + ref.Host()
	if plain {
		base = "http://" + ref.Host()
	}
	rt, conns, others, err := newTransport(host, base, tlsConfig, opt)
	if err != nil {
		return nil, err
	}
	return &Client{
		host:     host,
		http:     &http.Client{Transport: rt},
		conns:    conns,
		others:   others,
		tmpl:     ref,
		base:     base,
		unproven: unproven,
	}, nil
}

// Host returns the host that the client was made for; every name of Docker Hub is "docker.io".
func (c *Client) Host() string { return c.host }

// Origin returns the scheme and host that requests go to, such as https://registry.example.com.
func (c *Client) Origin() string { return c.base }

// Connections returns what requests to Origin go over, without credentials and retries.
func (c *Client) Connections() http.RoundTripper { return c.conns }

// Close closes connections that are not in use.
func (c *Client) Close() {
	c.conns.CloseIdleConnections()
	c.others.CloseIdleConnections()
}

// Repository returns a client of one repository.
func (c *Client) Repository(name oci.Repository) *Repository {
	ref := c.tmpl
	ref.Repository = string(name)
	return &Repository{
		client: c,
		name:   name,
		remote: &remote.Repository{
			Client:               c.http,
			Reference:            ref,
			PlainHTTP:            c.plain(),
			TagListPageSize:      pageSize,
			ReferrerListMaxPages: maxReferrerPages,
			MaxMetadataBytes:     maxManifest,
			// What stood at the destination before is not ours to delete.
			SkipReferrersGC: true,
		},
	}
}

// Repositories yields the names of all repositories, in the order that the registry lists
// them. It fails with an *Error when the registry does not list its
// repositories, as many public ones do not. An error ends the sequence.
func (c *Client) Repositories(ctx context.Context) iter.Seq2[oci.Repository, error] {
	return func(yield func(oci.Repository, error) bool) {
		reg := &remote.Registry{
			RepositoryOptions: remote.RepositoryOptions{
				Client:           c.http,
				Reference:        c.tmpl,
				PlainHTTP:        c.plain(),
				MaxMetadataBytes: maxManifest,
			},
			RepositoryListPageSize: pageSize,
		}
		var pages pageCheck
		err := reg.Repositories(ctx, "", func(names []string) error {
			if err := pages.next(names); err != nil {
				return err
			}
			for _, s := range names {
				name, err := oci.ParseRepository(s)
				if err != nil {
					return err
				}
				if !yield(name, nil) {
					return errStop
				}
			}
			return nil
		})
		if err != nil && err != errStop {
			yield("", c.fail("", "list repositories", err))
		}
	}
}

func (c *Client) plain() bool { return c.base[:5] == "http:" }

// pageCheck ends a listing whose pages do not advance, which a faulty registry could
// go on with for ever.
type pageCheck struct{ first, last string }

func (p *pageCheck) next(names []string) error {
	if len(names) == 0 {
		return nil
	}
	first, last := names[0], names[len(names)-1]
	if first == p.first && last == p.last {
		return fmt.Errorf("the registry sends the page from %q to %q again and again", first, last)
	}
	p.first, p.last = first, last
	return nil
}
