package web

import (
	"bufio"
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

// A client that waits for leave to send its body gets the answer instead, if there is no leave.
func TestExpectContinue(t *testing.T) {
	refuse := serve(t, Options{Idle: idle}, func(*Response, *http.Request) error { return oci.Errorf(oci.CodeNameInvalid, "no") })
	const request = "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
	if resp, body, closed := exchange(t, refuse, request); resp.StatusCode != http.StatusBadRequest || !closed {
		t.Errorf("status %d, closed %t: %s", resp.StatusCode, closed, body)
	}
	accept := serve(t, Options{Idle: time.Hour}, readBody)
	if resp, _, _ := exchange(t, accept, request); resp.StatusCode != http.StatusContinue {
		t.Errorf("status %d, expected 100", resp.StatusCode)
	}
}

// Much that no handler reads is not read by the server either: it hangs up.
func TestUnreadBody(t *testing.T) {
	s := serve(t, Options{Idle: time.Hour}, func(*Response, *http.Request) error { return oci.Errorf(oci.CodeNameInvalid, "no") })
	resp, body, closed := exchange(t, s, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
	if resp.StatusCode != http.StatusBadRequest || !closed {
		t.Errorf("status %d, closed %t: %s", resp.StatusCode, closed, body)
	}
	// Who streams is answered before it has sent all.
	c := dial(t, s)
	io.WriteString(c, "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusBadRequest || !resp.Close {
		t.Fatalf("%v, %v", resp, err)
	}
	// Of a little, the connection is worth more.
	c = dial(t, s)
	for range 2 {
		io.WriteString(c, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusBadRequest || resp.Close {
			t.Fatalf("%v, %v", resp, err)
		}
		io.Copy(io.Discard, resp.Body)
	}
}
