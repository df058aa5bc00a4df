//go:build linux

package load

import (
	"bytes"
	"strconv"
	"strings"
)

// Request is one request, ready to be sent.
type Request struct {
	Head []byte // request line and header, up to and with the empty line
	Body Body

	// Sink is given the body of the answer piece by piece; the bytes are valid during the
	// call only. Nil drops them.
	Sink func([]byte)
}

// Host is the Host header of all requests. Servers under test do not look at it, but
// some put it into absolute locations.
const Host = "localhost"

// Head returns the head of a request. Header lines are given as "Name: value".
func Head(method, target string, header ...string) []byte {
	var b bytes.Buffer
	b.WriteString(method + " " + target + " HTTP/1.1\r\nHost: " + Host + "\r\n")
	for _, line := range header {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// HeadWithLength is Head for a request that carries n bytes.
func HeadWithLength(method, target string, n int64, header ...string) []byte {
	return Head(method, target, append(header, "Content-Length: "+strconv.FormatInt(n, 10))...)
}

// Response is the answer to a request. It is valid until the client's next one.
type Response struct {
	Status int
	Length int64 // bytes of body that arrived

	head  []byte // status line and header lines, each with its CRLF
	start []byte // the beginning of the body, for messages about errors; empty for 2xx
}

// Header returns the first value of a header, or "".
func (r *Response) Header(name string) string { return string(header(r.head, name)) }

// Target returns the Location header as a request target: without scheme and host.
func (r *Response) Target() string {
	loc := r.Header("Location")
	if _, rest, ok := strings.Cut(loc, "://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
		return "/"
	}
	return loc
}

// header finds a header line by name, ignoring case.
func header(head []byte, name string) []byte {
	for len(head) > 0 {
		end := bytes.Index(head, crlf)
		if end < 0 {
			return nil
		}
		line := head[:end]
		head = head[end+2:]
		if len(line) > len(name) && line[len(name)] == ':' && asciiEqualFold(line[:len(name)], name) {
			return bytes.TrimSpace(line[len(name)+1:])
		}
	}
	return nil
}

func asciiEqualFold(b []byte, s string) bool {
	for i := range b {
		x, y := b[i], s[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

var crlf = []byte("\r\n")
