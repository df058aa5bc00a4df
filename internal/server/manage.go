package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
)

// newAccounts returns the accounts of a database, of sources elsewhere, and of certificates that clients show.
func newAccounts(cfg *Config, db *meta.DB, log *slog.Logger, sources []auth.Source, certificate func(*http.Request) *x509.Certificate) (*auth.Auth, error) {
	if !cfg.Auth.ClientCertificates {
		certificate = nil
	}
	return auth.New(db, auth.Options{
		Certificate:   certificate,
		Log:           log,
		Service:       cfg.Service(),
		TokenLifetime: cfg.Auth.TokenLifetime.D(),
		KeyLifetime:   cfg.Auth.KeyLifetime.D(),
		KeepAudit:     cfg.Auth.AuditRetention.D(),
		ForwardAudit:  cfg.Auth.AuditForward.names(),
		Sources:       sources,
		Issuers:       cfg.Auth.issuers(),

		SignInLifetime: cfg.Auth.signInLifetimes(),
	})
}

// offerSetup logs how the first administrator is made, as long as there is none.
func offerSetup(ctx context.Context, cfg *Config, log *slog.Logger, management *admin.Handler) error {
	if cfg.ReadOnly {
		return nil
	}
	token, err := management.OfferSetup(ctx)
	if err != nil || token == "" {
		return err
	}
	url := cfg.ownURL()
	log.Warn("there is no administrator yet: make the first one at this page, or by this command", "page", url+admin.SetupPath+"#"+token,
		"command", "berth user add NAME --admin --server "+url+" --setup "+token)
	return nil
}

// ownURL is where this server is reached, as far as it knows.
func (c *Config) ownURL() string {
	if c.ExternalURL != "" {
		return string(c.ExternalURL)
	}
	scheme := "http://"
	if c.TLS.on() {
		scheme = "https://"
	}
	host, port, err := net.SplitHostPort(string(c.Listen))
	if _, socket := c.Listen.Unix(); socket || err != nil {
		return scheme + "HOST"
	}
	ip := net.ParseIP(host)
	switch {
	case len(c.TLS.ACME.Hosts) > 0:
		host = string(c.TLS.ACME.Hosts[0])
	case host == "" || ip != nil && ip.IsUnspecified():
		host = "localhost"
	}
	return scheme + net.JoinHostPort(host, port)
}

// OpenManagement opens the database that a configuration names, and returns a transport that serves the management API on it, without a server; whoever
// uses it may do everything. The registry must exist, unless it may be made. No server may be using the data folder; those on PostgreSQL may go on.
// The function that it returns closes the database.
func OpenManagement(ctx context.Context, cfg *Config, mayMake bool, log *slog.Logger) (_ http.RoundTripper, closeAll func() error, err error) {
	s := new(Storage)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if !cfg.Database.IsSet() {
		if mayMake {
			err = os.MkdirAll(cfg.Data, 0o700)
		} else {
			_, err = os.Stat(DatabaseFile(cfg.Data))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("there is no registry in the folder %s: %w", cfg.Data, err)
		}
		if s.lock, err = LockData(cfg.Data); err != nil {
			return nil, nil, fmt.Errorf("%w; name a server that runs with --server URL in place of its data, and sign in to it with docker login", err)
		}
	}
	if s.DB, err = openDatabase(ctx, cfg, false); err != nil {
		return nil, nil, err
	}
	accounts, err := newAccounts(cfg, s.DB, log, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	reg, err := newRegistry(ctx, cfg, s.DB, nil, nil) // the bytes of blobs are not asked for
	if err != nil {
		return nil, nil, err
	}
	management := admin.New(admin.Options{
		Auth: accounts, DB: s.DB, Registry: reg, Log: log, TrashKeep: cfg.Trash.Keep.D(), Service: cfg.Service(), Delete: cfg.Delete, ReadOnly: cfg.ReadOnly,
		Backups: string(cfg.Backup.To),
	})
	return management.Local(), s.Close, nil
}
