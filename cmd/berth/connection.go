package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/berthregistry/berth/internal/upstream"
)

// connection is how registries are reached.
type connection struct {
	plainHTTP bool
	insecure  bool
	ca        string // file of PEM certificates
	cert, key string // files of the client's certificate
	inspect   bool   // what is read is not used
}

func (c *connection) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&c.plainHTTP, "plain-http", false, "speak HTTP without TLS (loopback hosts need no flag)")
	flags.BoolVar(&c.insecure, "insecure", false, "do not verify the server's certificate")
	flags.StringVar(&c.ca, "ca", "", "trust the certificates in `FILE` (PEM), beside the system's")
	flags.StringVar(&c.cert, "cert", "", "prove to the registry who you are by the certificate in `FILE` (PEM)")
	flags.StringVar(&c.key, "key", "", "the key of that certificate, in `FILE` (PEM; default that of --cert)")
}

// with returns c with what is set for one end alone.
func (c connection) with(end connection) connection {
	c.plainHTTP = c.plainHTTP || end.plainHTTP
	c.insecure = c.insecure || end.insecure
	if end.cert != "" || end.key != "" {
		c.cert, c.key = end.cert, end.key
	}
	return c
}

// client returns a client of the registry at host.
func (c *connection) client(ctx context.Context, host string) (*upstream.Client, error) {
	opt := upstream.Options{
		PlainHTTP: c.plainHTTP,
		Insecure:  c.insecure,
		UserAgent: userAgent(),
		Inspect:   c.inspect,
	}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no certificate in PEM", c.ca)
		}
		opt.CA = pool
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, cmp.Or(c.key, c.cert))
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		opt.Certificate = &pair
	} else if c.key != "" {
		return nil, errors.New("--key has no effect without --cert")
	}
	var err error
	if opt.Credential, err = upstream.StoredCredentials(); err != nil {
		return nil, err
	}
	return upstream.New(ctx, host, opt)
}

// repository returns a client of the repository that ref names, for somebody who looks at it.
func (c connection) repository(ctx context.Context, ref reference) (*upstream.Repository, error) {
	c.inspect = true
	client, err := c.client(ctx, ref.host)
	if err != nil {
		return nil, err
	}
	return client.Repository(ref.name), nil
}
