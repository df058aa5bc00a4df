package certificate

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"time"
)

// How long certificates of an Authority last. Those of servers last as long as the strictest clients
// accept from an authority that a user has added.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 825 * 24 * time.Hour
)

// Authority is a certificate authority of one's own, for hosts that no public one vouches for. It vouches for servers and
// for clients, and for no other authority.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes an authority. The name is for people.
func NewAuthority(name string) (*Authority, error) {
	key, _, err := newKey()
	if err != nil {
		return nil, err
	}
	template := newTemplate(name, authorityLife)
	template.IsCA, template.MaxPathLenZero = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert, key}, err
}

// ParseAuthority reads what PEM has returned.
func ParseAuthority(certificate, key []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	return &Authority{pair.Leaf, pair.PrivateKey.(crypto.Signer)}, nil
}

// PEM returns the authority's certificate, which others are to trust, and its key, with which certificates for any host
// can be made that they trust then.
func (a *Authority) PEM() (certificate, key []byte, err error) {
	key, err = keyPEM(a.key)
	return certificatePEM(a.cert.Raw), key, err
}

// Server makes a certificate for a server of these names and addresses, the first of which is its common name.
func (a *Authority) Server(hosts []string) (certificate, key []byte, err error) {
	template := newTemplate(hosts[0], leafLife)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return a.issue(template)
}

// Client makes a certificate by which a client proves to be the one of this name.
func (a *Authority) Client(name string) (certificate, key []byte, err error) {
	template := newTemplate(name, leafLife)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(template)
}

// newTemplate returns what all certificates have in common. The serial number is chosen when it is signed.
func newTemplate(name string, life time.Duration) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-time.Hour), // clocks differ
		NotAfter:              now.Add(life - time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func (a *Authority) issue(template *x509.Certificate) (certificate, key []byte, err error) {
	signer, key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	if a.cert.NotAfter.Before(template.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, signer.Public(), a.key)
	return certificatePEM(der), key, err
}
