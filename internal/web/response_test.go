package web

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

const idle = 200 * time.Millisecond

var errTimeout = oci.Errorf(oci.CodeSizeInvalid, "too slow").WithStatus(http.StatusRequestTimeout)

// readBody reads the body and answers 408 if the client stalls.
func readBody(w *Response, r *http.Request) error {
	_, err := io.Copy(io.Discard, r.Body)
	if errors.Is(err, ErrIdle) {
		return errTimeout
	}
	return err
}

// A client that stalls in its body is answered and let go, however little is missing.
func TestStalledBody(t *testing.T) {
	s := serve(t, Options{Idle: idle}, readBody)
	for name, request := range map[string]string{
		"nothing sent":  "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"little left":   "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123456789",
		"much left":     "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n123456789",
		"chunked":       "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
		"in a chunk":    "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
		"before a size": "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			resp, body, closed := exchange(t, s, request)
			if resp.StatusCode != http.StatusRequestTimeout || !closed || !strings.Contains(string(body), "SIZE_INVALID") {
				t.Errorf("status %d, closed %t: %s", resp.StatusCode, closed, body)
			}
		})
	}
}

// The same for a body that no handler reads.
func TestStalledUnreadBody(t *testing.T) {
	s := serve(t, Options{Idle: idle}, func(*Response, *http.Request) error {
		return oci.Errorf(oci.CodeNameInvalid, "no")
	})
	for name, request := range map[string]string{
		"nothing sent": "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"little left":  "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123456789",
		"chunked":      "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			resp, body, closed := exchange(t, s, request)
			if resp.StatusCode != http.StatusBadRequest || !closed || !strings.Contains(string(body), "NAME_INVALID") {
				t.Errorf("status %d, closed %t: %s", resp.StatusCode, closed, body)
			}
		})
	}
}
