package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// What every LDAP server has: its suffix, and the DN and password of who may do everything.
const (
	LDAPSuffix   = "dc=example,dc=org"
	LDAPAdminDN  = "cn=admin," + LDAPSuffix
	LDAPPassword = "correct-horse"
)

// LDAPServer is an LDAP server: OpenLDAP's slapd. Its directory holds the suffix, ou=people and ou=groups at first. Everybody
// may read everything but passwords; who has not signed in gets no more than 500 entries.
type LDAPServer struct {
	URL    string // ldap://127.0.0.1:PORT, with or without StartTLS
	TLSURL string // ldaps://127.0.0.1:PORT
	CAFile string // the certificates to trust
	Dir    string

	program string
	process *os.Process
	exited  chan struct{} // closed once the process has ended
	end     func()
}

// NewLDAP starts an LDAP server that the test can stop and start. It ends with the test. Without slapd the test is skipped, or
// fails if CI=true.
func NewLDAP(t testing.TB) *LDAPServer {
	t.Helper()
	s, err := startLDAP(need(t, "slapd"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop()
		s.end()
	})
	s.Add(t, LDAPSuffix, map[string][]string{"objectClass": {"dcObject", "organization"}, "o": {"Example"}})
	for _, ou := range []string{"people", "groups"} {
		s.Add(t, "ou="+ou+","+LDAPSuffix, map[string][]string{"objectClass": {"organizationalUnit"}})
	}
	return s
}

func startLDAP(program string) (*LDAPServer, error) {
	dir, err := os.MkdirTemp("", "berth-ldap-")
	if err != nil {
		return nil, err
	}
	s := &LDAPServer{Dir: dir, CAFile: filepath.Join(dir, "ca.pem"), program: filepath.Join(dir, "slapd")}
	if s.end, err = guard(nil, `[ -e "$1/pid" ] && kill -9 "$(cat "$1/pid")"; rm -rf "$1"`, dir); err != nil {
		return nil, err
	}
	if err = s.configure(program); err == nil {
		err = s.startAnywhere()
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

func (s *LDAPServer) configure(program string) error {
	// A copy, because the profile that AppArmor has for slapd's own path keeps it in folders of its own.
	binary, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.program, binary, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(s.Dir, "data"), 0o700); err != nil {
		return err
	}
	if err := writeCertificates(s.CAFile, filepath.Join(s.Dir, "cert.pem"), filepath.Join(s.Dir, "key.pem")); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, "slapd.conf"), fmt.Appendf(nil, `
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCACertificateFile %[1]s/ca.pem
TLSCertificateFile %[1]s/cert.pem
TLSCertificateKeyFile %[1]s/key.pem
database mdb
maxsize 268435456
directory %[1]s/data
suffix %[2]q
rootdn %[3]q
rootpw %[4]s
index objectClass,uid,cn,member eq
dbnosync
limits users size.prtotal=unlimited
access to attrs=userPassword by anonymous auth by * none
access to * by * read
`, s.Dir, LDAPSuffix, LDAPAdminDN, LDAPPassword), 0o600)
}

// writeCertificates makes a CA and a certificate for this machine.
func writeCertificates(caFile, certFile, keyFile string) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of a test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for file, block := range map[string]*pem.Block{
		caFile: {Type: "CERTIFICATE", Bytes: caDER}, certFile: {Type: "CERTIFICATE", Bytes: certDER}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startAnywhere starts the server on free ports.
func (s *LDAPServer) startAnywhere() (err error) {
	for range 5 { // another process can take a port between the choice and its use
		var port, tlsPort int
		if port, err = freePort(); err != nil {
			return err
		}
		if tlsPort, err = freePort(); err != nil {
			return err
		}
		s.URL, s.TLSURL = fmt.Sprint("ldap://127.0.0.1:", port), fmt.Sprint("ldaps://127.0.0.1:", tlsPort)
		if err = s.start(); err == nil {
			return nil
		}
	}
	return err
}

// Start starts a server that was stopped, on the same addresses and data.
func (s *LDAPServer) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

func (s *LDAPServer) start() error {
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// With -d it stays in the foreground.
	cmd := exec.Command(s.program, "-d", "0", "-f", filepath.Join(s.Dir, "slapd.conf"), "-h", s.URL+"/ "+s.TLSURL+"/")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start slapd: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.process, s.exited = cmd.Process, exited
	if err := os.WriteFile(s.pidFile(), fmt.Appendln(nil, cmd.Process.Pid), 0o600); err != nil {
		s.Stop()
		return err
	}
	for range 6000 { // a minute: the machine may be busy
		select {
		case <-exited:
			return fmt.Errorf("slapd has ended:\n%s", s.log())
		default:
		}
		if conn, err := ldap.DialURL(s.URL); err == nil {
			conn.Close()
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.Stop()
	return fmt.Errorf("slapd does not listen:\n%s", s.log())
}

func (s *LDAPServer) pidFile() string { return filepath.Join(s.Dir, "pid") }

// log returns the end of what the server printed.
func (s *LDAPServer) log() []byte {
	text, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	return text[max(len(text)-4<<10, 0):]
}

// Stop kills the server. What it has answered stays.
func (s *LDAPServer) Stop() {
	if s.process == nil {
		return
	}
	_ = s.process.Kill()
	<-s.exited
	_ = os.Remove(s.pidFile())
	s.process = nil
}

// Do makes changes as who may do everything.
func (s *LDAPServer) Do(t testing.TB, changes func(*ldap.Conn) error) {
	t.Helper()
	conn, err := ldap.DialURL(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Bind(LDAPAdminDN, LDAPPassword); err != nil {
		t.Fatal(err)
	}
	if err := changes(conn); err != nil {
		t.Fatal(err)
	}
}

// Add adds an entry.
func (s *LDAPServer) Add(t testing.TB, dn string, attributes map[string][]string) {
	t.Helper()
	s.Do(t, func(c *ldap.Conn) error { return c.Add(AddRequest(dn, attributes)) })
}

// AddRequest returns the request that adds an entry.
func AddRequest(dn string, attributes map[string][]string) *ldap.AddRequest {
	request := ldap.NewAddRequest(dn, nil)
	for name, values := range attributes {
		request.Attribute(name, values)
	}
	return request
}
