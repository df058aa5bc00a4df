package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berthregistry/berth/internal/oci"
)

// ErrNotFound: the registry says that it has no such repository, manifest or
// blob. Errors of this package wrap it where it applies.
var ErrNotFound = errors.New("not found")

// errStop ends a listing whose consumer wants no more.
var errStop = errors.New("stop")

// Error is an answer of a registry that is not what was asked for.
type Error struct {
	Status  int      // HTTP status
	Code    oci.Code // first error code in the body; empty if it has none
	Message string   // first message in the body, made printable; may be empty
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		s += " " + string(e.Code)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Is makes errors.Is(e, ErrNotFound) true for 404.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound
}

// responseError reads the error that a response describes. The caller closes the body.
func responseError(resp *http.Response) *Error {
	const limit = 16 << 10
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	e := &Error{Status: resp.StatusCode}
	if json.NewDecoder(io.LimitReader(resp.Body, limit)).Decode(&body) == nil && len(body.Errors) > 0 {
		e.Code = oci.Code(Printable(body.Errors[0].Code))
		e.Message = Printable(body.Errors[0].Message)
	}
	return e
}

// OpError says what failed, and where.
type OpError struct {
	Host       string
	Repository oci.Repository // empty if the whole registry was meant
	Op         string         // such as "get manifest 1.0"
	Err        error
	// Unproven says that the registry wanted a certificate, and was shown none. One that insists on it closes the connection, and
	// seldom gets to say why.
	Unproven bool
}

// Error implements error.
func (e *OpError) Error() string {
	name := e.Host
	if e.Repository != "" {
		name += "/" + string(e.Repository)
	}
	return name + ": " + e.Op + ": " + e.Err.Error()
}

// Unwrap returns what went wrong.
func (e *OpError) Unwrap() error { return e.Err }

// fail wraps err in an OpError, unless it is one already. Errors of the library become those of this package.
func (c *Client) fail(name oci.Repository, op string, err error) error {
	if err == nil {
		return nil
	}
	var resp *errcode.ErrorResponse
	var sent *url.Error
	var outer *OpError
	switch {
	case errors.As(err, &outer):
		return err
	case errors.As(err, &resp):
		e := &Error{Status: resp.StatusCode}
		if len(resp.Errors) > 0 {
			e.Code = oci.Code(Printable(resp.Errors[0].Code))
			e.Message = Printable(resp.Errors[0].Message)
		}
		err = e
	case errors.Is(err, errdef.ErrNotFound):
		err = &Error{Status: http.StatusNotFound}
	case errors.As(err, &sent):
		err = sent.Err // its text repeats the URL
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		err = dial.Err // likewise the address
	}
	return &OpError{Host: c.host, Repository: name, Op: op, Err: err, Unproven: c.unproven.Load()}
}

// Printable replaces what a terminal could take for a command in text that a
// registry sent, and puts it on one line.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return '\uFFFD'
		case r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069: // overrides of the direction of writing
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
