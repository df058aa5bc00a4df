package upstream

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// pipeListener accepts connections that stay inside of the process, so that time can be
// made to pass.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	l.conns <- server
	return client, nil
}

// A connection that is open but silent counts as broken after a minute, however slow
// the reader itself is.
func TestDownloadFromSilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := bytes.Repeat([]byte("0123456789"), 1000)
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		var ranges []string
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ranges = append(ranges, r.Header.Get("Range"))
			if len(ranges) == 1 {
				w.Header().Set("Content-Length", "10000")
				w.Write(content[:5000])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		})}
		go s.Serve(l)
		c, err := New(t.Context(), "registry.example.com", Options{PlainHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		c.conns.DialContext = l.dial
		c.conns.Proxy = nil
		d := oci.Descriptor{Digest: oci.DigestBytes(oci.SHA256, content), Size: int64(len(content))}
		r, err := c.Repository("silent").Blob(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		head := make([]byte, 5000)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * stallLimit) // our own slowness
		rest, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(append(head, rest...), content) {
			t.Errorf("%d bytes, %v", len(rest), err)
		}
		if waited := time.Since(begin) - 10*stallLimit; waited < stallLimit || waited > stallLimit+time.Second {
			t.Errorf("waited %s, expected %s", waited, stallLimit)
		}
		if len(ranges) != 2 || ranges[1] != "bytes=5000-" {
			t.Errorf("ranges %q", ranges)
		}
		r.Close()
		c.Close()
		s.Close()
	})
}
