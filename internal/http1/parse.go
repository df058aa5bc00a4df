package http1

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
)

// maxHead is how long the head of a plain request may be, in bytes.
const maxHead = 4 << 10

// request holds in one piece what a request is made of.
type request struct {
	http.Request
	url    url.URL
	values [8]string // of the header
}

// parse reads the plain request that b begins with, and returns how long its head is. It is a copy of base, and
// nothing of it refers to b. It is nil if b does not begin with a whole head that is plain:
// the request line and each field are written as RFC 9112 has it, without whatever it lets a server tolerate, nothing
// speaks of a body or of the connection, and there is one Host. What parse accepts, http.ReadRequest
// understands in the same way.
func parse(b []byte, base *http.Request) (*http.Request, int) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, 0
	}
	method := http.MethodGet
	line, ok := bytes.CutPrefix(b[:end+2], []byte("GET "))
	if !ok {
		method = http.MethodHead
		if line, ok = bytes.CutPrefix(line, []byte("HEAD ")); !ok {
			return nil, 0
		}
	}
	space := max(bytes.IndexByte(line, ' '), 0)
	fields, ok := bytes.CutPrefix(line[space:], []byte(" HTTP/1.1\r\n"))
	if !ok {
		return nil, 0
	}
	r := &request{Request: *base}
	r.Method = method
	// Not of one piece with the fields, since what is kept of a path should not keep those.
	r.RequestURI = string(line[:space])
	if !r.parseTarget() || !r.parseFields(string(fields)) {
		return nil, 0
	}
	return &r.Request, end + 4
}

// parseTarget sets URL if the target is in origin-form.
func (r *request) parseTarget() bool {
	s := r.RequestURI
	if s == "" || s[0] != '/' {
		return false
	}
	pathOnly := true
	for i := range len(s) {
		switch c := s[i]; {
		case isAlphanumeric(c), strings.IndexByte("/.-_~:", c) >= 0:
		case strings.IndexByte("?%!$&'()*+,=@", c) >= 0:
			pathOnly = false
		default:
			return false
		}
	}
	if pathOnly {
		r.url.Path = s
		r.URL = &r.url
		return true
	}
	var err error
	r.URL, err = url.ParseRequestURI(s)
	return err == nil
}

// parseFields sets Header and Host from lines that each end with CRLF.
func (r *request) parseFields(s string) bool {
	r.Header = make(http.Header, len(r.values))
	free := r.values[:]
	for s != "" {
		colon := 0
		for colon < len(s) && isToken(s[colon]) {
			colon++
		}
		name, rest := s[:colon], s[colon:]
		if name == "" || rest[0] != ':' {
			return false
		}
		end := strings.Index(rest, "\r\n")
		if end < 0 || !isFieldValue(rest[1:end]) {
			return false
		}
		value := strings.Trim(rest[1:end], " \t")
		s = rest[end+2:]
		name = http.CanonicalHeaderKey(name)
		switch name {
		case "Host":
			if r.Host != "" || !isHost(value) {
				return false
			}
			r.Host = value
			continue
		case "Content-Length", "Transfer-Encoding", "Te", "Trailer", "Expect", // of a body
			"Keep-Alive", "Proxy-Connection", "Upgrade", "Http2-Settings", // of the connection
			"Pragma": // which net/http makes a Cache-Control of
			return false
		case "Connection":
			if value != "keep-alive" { // which is the case anyhow
				return false
			}
		}
		if have := r.Header[name]; have != nil || len(free) == 0 {
			r.Header[name] = append(have, value)
		} else {
			free[0] = value
			r.Header[name], free = free[:1:1], free[1:]
		}
	}
	return r.Host != ""
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z'
}

// isToken tells whether c may be in a field's name (RFC 9110, section 5.6.2).
func isToken(c byte) bool {
	return isAlphanumeric(c) || strings.IndexByte("-!#$%&'*+.^_`|~", c) >= 0
}

// isFieldValue tells whether s has none of the control characters that a field's value must not have (RFC 9110, section 5.5). It looks
// at eight bytes at once, because tokens are long.
func isFieldValue(s string) bool {
	const ones = 0x0101010101010101
	for len(s) >= 8 {
		x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		del := x ^ 0x7f*ones
		// The highest bit of each byte that is below 0x20, or 0x7f; and of some after it, which are then looked at for nothing.
		if ((x-0x20*ones)&^x|(del-ones)&^del)&(0x80*ones) != 0 && !areFieldBytes(s[:8]) {
			return false
		}
		s = s[8:]
	}
	return areFieldBytes(s)
}

func areFieldBytes(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isHost tells whether s has only what host names, addresses and ports are made of, and something.
func isHost(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && strings.IndexByte(".-_:[]", s[i]) < 0 {
			return false
		}
	}
	return s != ""
}
