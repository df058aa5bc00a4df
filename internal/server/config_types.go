package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/berthregistry/berth/internal/job"
)

// The types of settings read themselves from text, whichever place it comes
// from. Their errors say what would be right, and leave the setting's name to
// the caller.

// Sparse says which manifests may lack content.
type Sparse string

// The values of Sparse.
const (
	SparseNone  Sparse = "none"
	SparseIndex Sparse = "index"
	SparseAll   Sparse = "all"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Sparse) UnmarshalText(b []byte) error {
	return setOneOf(s, b, SparseNone, SparseIndex, SparseAll)
}

// LogLevel is the least severe level that is logged.
type LogLevel string

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LogLevel) UnmarshalText(b []byte) error {
	return setOneOf(l, b, "debug", "info", "warn", "error")
}

// Level returns the level for slog.
func (l LogLevel) Level() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l)); err != nil {
		return slog.LevelInfo // the zero Config
	}
	return level
}

// LogFormat is how log lines are written.
type LogFormat string

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *LogFormat) UnmarshalText(b []byte) error {
	return setOneOf(f, b, "text", "json")
}

// Switch is on, off, or what suits.
type Switch string

// The values of Switch.
const (
	SwitchAuto Switch = "auto"
	SwitchOn   Switch = "on"
	SwitchOff  Switch = "off"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Switch) UnmarshalText(b []byte) error {
	return setOneOf(s, b, SwitchAuto, SwitchOn, SwitchOff)
}

// TimeWindow is a time of day, or nil for any time.
type TimeWindow struct{ *job.Window }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *TimeWindow) UnmarshalText(b []byte) (err error) {
	w.Window = nil
	if len(b) > 0 {
		w.Window, err = job.ParseWindow(string(b))
	}
	return err
}

// String returns what UnmarshalText reads.
func (w TimeWindow) String() string {
	if w.Window == nil {
		return ""
	}
	return w.Window.String()
}

// MarshalText implements encoding.TextMarshaler.
func (w TimeWindow) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// Encryption is how objects are encrypted in a bucket.
type Encryption string

// The values of Encryption.
const (
	EncryptionBucket Encryption = "bucket"
	EncryptionS3     Encryption = "s3"
	EncryptionKMS    Encryption = "kms"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Encryption) UnmarshalText(b []byte) error {
	return setOneOf(e, b, EncryptionBucket, EncryptionS3, EncryptionKMS)
}

// Redirect says whether clients are sent to the bucket, and where they reach it.
type Redirect struct {
	Mode   Switch   // on if Public is set
	Public Endpoint // empty for the endpoint of the bucket
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Redirect) UnmarshalText(b []byte) error {
	if strings.Contains(string(b), "://") {
		*r = Redirect{Mode: SwitchOn}
		return r.Public.UnmarshalText(b)
	}
	*r = Redirect{}
	if r.Mode.UnmarshalText(b) != nil {
		return fmt.Errorf("%q must be auto, on, off, or the URL at which clients reach the bucket's service", clip(b))
	}
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (r Redirect) MarshalText() ([]byte, error) {
	if r.Public != "" {
		return []byte(r.Public), nil
	}
	return []byte(r.Mode), nil
}

// Endpoint is the root of a service, without a slash at the end, or empty.
type Endpoint string

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Endpoint) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*e = ""
		return nil
	}
	p, err := url.Parse(string(b))
	switch {
	case err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Hostname() == "":
		return fmt.Errorf("%q is not a URL: write https://HOST or http://HOST:PORT", clip(b))
	case p.User != nil:
		return errors.New("a user name or password has no place here: there are settings for keys")
	case p.Path != "" && p.Path != "/" || p.RawQuery != "" || p.ForceQuery || p.Fragment != "":
		return fmt.Errorf("%q must end after the host: the bucket has a setting of its own", clip(b))
	}
	*e = Endpoint(p.Scheme + "://" + p.Host)
	return nil
}

// IsPublic tells whether clients anywhere may be able to use the endpoint: it has TLS, and
// a host name that is not one of a local network.
func (e Endpoint) IsPublic() bool {
	p, err := url.Parse(string(e))
	if err != nil || p.Scheme != "https" {
		return false
	}
	host := strings.TrimSuffix(p.Hostname(), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsGlobalUnicast() && !ip.IsPrivate()
	}
	_, top, dotted := cutLast(host, '.')
	return dotted && !slices.Contains([]string{"local", "localhost", "internal", "lan", "home", "corp", "svc", "test", "example", "invalid"}, strings.ToLower(top))
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

func setOneOf[T ~string](to *T, b []byte, allowed ...T) error {
	if !slices.Contains(allowed, T(b)) {
		var names []string
		for _, a := range allowed {
			names = append(names, string(a))
		}
		last := len(names) - 1
		return fmt.Errorf("%q must be %s or %s", clip(b), strings.Join(names[:last], ", "), names[last])
	}
	*to = T(b)
	return nil
}

// Network is a range of addresses, or one of them.
type Network struct{ netip.Prefix }

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Network) UnmarshalText(b []byte) error {
	if addr, err := netip.ParseAddr(string(b)); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		n.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(string(b))
	if err != nil || p.Addr().Is4In6() {
		return fmt.Errorf("%q is neither an address nor a network: write 10.0.0.0/8, 10.1.2.3, fd00::/8 or the like", clip(b))
	}
	n.Prefix = p.Masked()
	return nil
}

// Presence says whether something may or must be there.
type Presence string

// The values of Presence.
const (
	PresenceOptional Presence = "optional"
	PresenceRequired Presence = "required"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Presence) UnmarshalText(b []byte) error {
	return setOneOf(p, b, PresenceOptional, PresenceRequired)
}

// HostName is a name that a certificate can be ordered for, in lower case.
type HostName string

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *HostName) UnmarshalText(b []byte) error {
	s := strings.ToLower(string(b))
	_, notIP := netip.ParseAddr(s)
	switch {
	case strings.HasPrefix(s, "*."):
		return fmt.Errorf("%q: name each host; certificates for all names of a domain need a challenge by DNS, which Berth does not do", clip(b))
	case notIP == nil:
		return fmt.Errorf("%q is an address: a certificate is ordered for a name", clip(b))
	case len(s) > 253 || !strings.Contains(s, ".") || strings.Contains(s, "..") || strings.Trim(s, ".-") != s,
		strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(hostChars, r) }):
		return fmt.Errorf("%q is not the full name of a host: write registry.example.com", clip(b))
	}
	*h = HostName(s)
	return nil
}

const hostChars = "abcdefghijklmnopqrstuvwxyz0123456789.-"

// DirectoryURL is where an authority tells how it is spoken to.
type DirectoryURL string

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *DirectoryURL) UnmarshalText(b []byte) error {
	p, err := url.Parse(string(b))
	switch {
	case err != nil || p.Scheme != "https" || p.Hostname() == "" || p.Fragment != "":
		return fmt.Errorf("%q is not the URL of an authority's directory: write https://HOST/PATH", clip(b))
	case p.User != nil:
		return errors.New("a user name or password has no place here")
	}
	*d = DirectoryURL(b)
	return nil
}

// URL is the root of the registry as clients see it, without a slash at the end,
// or empty.
type URL string

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *URL) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*u = ""
		return nil
	}
	p, err := url.Parse(string(b))
	switch {
	case err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Hostname() == "":
		return fmt.Errorf("%q is not a URL: write https://HOST or https://HOST:PORT", clip(b))
	case p.User != nil:
		return errors.New("a user name or password has no place here")
	case p.Path != "" && p.Path != "/" || p.RawQuery != "" || p.ForceQuery || p.Fragment != "":
		return fmt.Errorf("%q must end after the host: clients look for a registry at the path /v2/ only", clip(b))
	}
	*u = URL(p.Scheme + "://" + p.Host)
	return nil
}

// Pattern matches names of repositories; see Config.Repositories.
type Pattern string

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Pattern) UnmarshalText(b []byte) error {
	s := string(b)
	switch {
	case s == "":
		return errors.New("the pattern is empty; ** matches every name")
	case !doublestar.ValidatePattern(s):
		return fmt.Errorf("%q is not a pattern: a bracket or brace is not closed", clip(b))
	case strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") || strings.Contains(s, "//"),
		strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(patternChars, r) }):
		return fmt.Errorf("%q can match no name: a name is lower-case letters, digits, '.', '_' and '-', its parts separated by one '/'", clip(b))
	}
	*p = Pattern(s)
	return nil
}

const patternChars = "abcdefghijklmnopqrstuvwxyz0123456789._-/*?[]{}^!,"

// Secret is a setting that is never shown. As text it is "[hidden]".
type Secret struct{ value string }

// NewSecret returns a secret.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return s.value }

// IsSet tells whether there is a secret.
func (s Secret) IsSet() bool { return s.value != "" }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Secret) UnmarshalText(b []byte) error {
	s.value = string(b)
	return nil
}

const hidden = "[hidden]"

// String, GoString, MarshalText and LogValue keep the secret out of whatever
// prints a Config.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return hidden
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return fmt.Sprintf("server.Secret(%q)", s.String()) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// clip shortens what stands in a configuration before it is put into a message.
func clip(b []byte) string {
	const limit = 100
	if len(b) > limit {
		return string(b[:limit]) + "…"
	}
	return string(b)
}
