package server

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthregistry/berth/internal/audit"
	"github.com/berthregistry/berth/internal/meta"
)

// SyslogURL is where a syslog server is reached, with its port, or empty.
type SyslogURL string

// The ports of the transports, as RFC 5425, RFC 6587 and RFC 5426 or the registry of ports have them.
var syslogPorts = map[string]string{"tls": "6514", "tcp": "601", "udp": "514"}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *SyslogURL) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*s = ""
		return nil
	}
	const right = "write tls://HOST, tcp://HOST:PORT, udp://HOST or unix:///PATH"
	u, err := url.Parse(string(b))
	if err != nil || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return fmt.Errorf("%q is not the URL of a syslog server: %s", clip(b), right)
	}
	if u.Scheme == "unix" {
		if u.Host != "" || !path.IsAbs(u.Path) || u.Path == "/" {
			return fmt.Errorf("%q names no socket: write unix:///dev/log", clip(b))
		}
		*s = SyslogURL("unix://" + u.Path)
		return nil
	}
	port, ok := syslogPorts[u.Scheme]
	if !ok || u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return fmt.Errorf("%q is not the URL of a syslog server: %s", clip(b), right)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	*s = SyslogURL(u.Scheme + "://" + net.JoinHostPort(u.Hostname(), port))
	return nil
}

// parts returns the transport, empty if there is none, and the address.
func (s SyslogURL) parts() (transport audit.Transport, address string) {
	scheme, address, _ := strings.Cut(string(s), "://")
	return audit.Transport(scheme), address
}

func (c *Config) checkAuditForward(require func(ok bool, key, format string, args ...any)) {
	f := c.Auth.AuditForward
	const section = "auth.audit_forward."
	require(f.SyslogFacility >= 0 && f.SyslogFacility <= 23, section+"syslog_facility", "%d must be between 0 and 23", f.SyslogFacility)
	require(f.SyslogFacility == defaultAuth().AuditForward.SyslogFacility || f.Syslog != "", section+"syslog_facility", "this has no effect without auth.audit_forward.syslog")
	transport, _ := f.Syslog.parts()
	const without = "this has no effect unless auth.audit_forward.syslog begins with tls://"
	require(f.SyslogCAFile == "" || transport == audit.TLS, section+"syslog_ca_file", without)
	require(f.SyslogCertificate == "" || transport == audit.TLS, section+"syslog_certificate", without)
	require(f.SyslogKey == "" || f.SyslogCertificate != "", section+"syslog_certificate", "the certificate of auth.audit_forward.syslog_key is needed")
	require(f.SyslogCertificate == "" || f.SyslogKey != "", section+"syslog_key", "the key of auth.audit_forward.syslog_certificate is needed")
}

// receivers returns where the audit log is forwarded to.
func (f *AuditForwardConfig) receivers() ([]audit.Receiver, error) {
	var all []audit.Receiver
	if transport, address := f.Syslog.parts(); transport != "" {
		s := &audit.Syslog{
			Transport: transport, Address: address, Facility: f.SyslogFacility,
			CAFile: f.SyslogCAFile, Certificate: f.SyslogCertificate, Key: f.SyslogKey,
		}
		if err := s.Check(); err != nil {
			return nil, fmt.Errorf("auth.audit_forward: %w", err)
		}
		all = append(all, s)
	}
	if f.File != "" {
		file := &audit.File{Path: f.File}
		if err := file.Check(); err != nil {
			return nil, fmt.Errorf("auth.audit_forward.file: %w", err)
		}
		all = append(all, file)
	}
	return all, nil
}

// names returns the names of the receivers.
func (f *AuditForwardConfig) names() []string {
	var all []string
	if f.Syslog != "" {
		all = append(all, (*audit.Syslog)(nil).Name())
	}
	if f.File != "" {
		all = append(all, (*audit.File)(nil).Name())
	}
	return all
}

// observeAudit shows how far a receiver of the audit log is behind, the same on all nodes.
func observeAudit(m *Metrics, db *meta.DB, receiver string) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "berth_audit_forward_lag_seconds",
		Help:        "Age of the oldest entry of the audit log that has not arrived at a receiver, 0 if all have.",
		ConstLabels: prometheus.Labels{"receiver": receiver},
	}, func() float64 {
		lag, err := audit.Lag(context.Background(), db, receiver, time.Now())
		if err != nil {
			return math.NaN()
		}
		return lag.Seconds()
	}))
}
