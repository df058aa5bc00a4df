package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

// explain returns the text of err on one line, with what can be done about it
// where that is known.
func explain(err error) string {
	text := upstream.Printable(err.Error())
	if hint := hint(err); hint != "" {
		text += ": " + hint
	}
	return text
}

// What a server says to a client with a certificate that it does not trust (RFC 8446 section 6.2).
const (
	alertBadCertificate   = 42
	alertUnknownAuthority = 48
)

func hint(err error) string {
	host := "HOST"
	var op *upstream.OpError
	if errors.As(err, &op) {
		host = op.Host
	}
	var (
		answer    *upstream.Error
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		cert      *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		dns       *net.DNSError
	)
	switch {
	case errors.As(err, &answer):
		return hintAnswer(answer, op, host)
	case errors.As(err, &authority):
		return "pass the certificate of its authority with --ca FILE, or --insecure to trust any"
	case errors.As(err, &name), errors.As(err, &cert):
		return "pass --insecure to connect nevertheless"
	case op != nil && op.Unproven, errors.As(err, &alert) && (alert == alertBadCertificate || alert == alertUnknownAuthority):
		return fmt.Sprintf("%s wants a certificate of yours that it trusts: pass it with --cert FILE and --key FILE", host)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return fmt.Sprintf("if %s speaks HTTP without TLS, pass --plain-http", host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no registry answers at %s; start one with \"berth serve\", or name another", host)
	case errors.As(err, &dns):
		return "is the name of the host right?"
	}
	return ""
}

func hintAnswer(answer *upstream.Error, op *upstream.OpError, host string) string {
	switch answer.Status {
	case http.StatusUnauthorized:
		return fmt.Sprintf("log in with \"docker login %s\" or \"podman login %s\"", host, host)
	case http.StatusForbidden:
		if answer.Message != "" {
			return "" // it says why
		}
		return "the account that is logged in, or an anonymous one, may not do this"
	case http.StatusTooManyRequests:
		return "the registry limits requests; try again later, or log in"
	case http.StatusNotFound:
		switch {
		case op == nil:
		case op.Repository == "":
			return fmt.Sprintf("%s does not list its repositories", host)
		case answer.Code == oci.CodeNameUnknown && answer.Message == "":
			return "there is no such repository"
		}
	}
	return ""
}
