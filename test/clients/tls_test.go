package clients

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// secure is a server with TLS that wants certificates of clients, all of an authority that "berth cert" has made.
type secure struct {
	*harness.Server
	dir        string // of the certificates
	printed    string // what to do for clients to trust it,
	printedFor string // if it were at this address
}

// newSecure starts a server, for which the client called name has a certificate.
func newSecure(t *testing.T, name string) secure {
	t.Helper()
	s := secure{dir: filepath.Join(t.TempDir(), "tls"), printedFor: "127.0.0.1:5000"}
	cert := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(harness.Binary(t), append([]string{"cert"}, append(args, "--out", s.dir)...)...).Output()
		if err != nil {
			t.Fatalf("berth cert %q: %v", args, err)
		}
		return string(out)
	}
	s.printed = cert("self-signed", "127.0.0.1", "--port", "5000")
	cert("client", name)
	s.Server = harness.Start(t, harness.Settings{TLS: true, Env: []string{
		"BERTH_TLS_CERTIFICATE=" + s.file("server.crt"), "BERTH_TLS_KEY=" + s.file("server.key"),
		"BERTH_TLS_CLIENT_CA=" + s.file("ca.crt"), "BERTH_TLS_CLIENT_CERTIFICATE=required",
	}})
	return s
}

func (s secure) file(name string) string { return filepath.Join(s.dir, name) }
