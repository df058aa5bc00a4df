package http1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

const typical = "HEAD /v2/team/app/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 HTTP/1.1\r\n" +
	"Host: registry.example:5000\r\nUser-Agent: Go-http-client/1.1\r\nAccept: application/octet-stream\r\nAccept-Encoding: gzip\r\n\r\n"

// BenchmarkHTTP measures a HEAD and the GET of a file of 64 KiB, over a loopback connection.
func BenchmarkHTTP(b *testing.B) {
	const size = 64 << 10
	path := filepath.Join(b.TempDir(), "blob")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	shared, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer shared.Close()
	handler := func(sendFile bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			control := http.NewResponseController(w)
			h := w.Header()
			h["X-Request-Id"] = []string{"0123456789abcdef"}
			h["Docker-Distribution-Api-Version"] = []string{"registry/2.0"}
			h["Content-Type"] = []string{"application/octet-stream"}
			h["Etag"] = []string{"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
			h["Accept-Ranges"] = []string{"bytes"}
			h["Content-Length"] = []string{strconv.Itoa(size)}
			control.SetWriteDeadline(time.Now().Add(time.Minute))
			w.WriteHeader(200)
			if r.Method == "HEAD" {
				return
			}
			control.SetWriteDeadline(time.Now().Add(time.Minute))
			if s, ok := w.(interface {
				SendFile(*os.File, int64, int64) (int64, error)
			}); ok && sendFile {
				s.SendFile(shared, 0, size)
				return
			}
			f, err := os.Open(path)
			if err != nil {
				panic(err)
			}
			defer f.Close()
			io.Copy(w, &io.LimitedReader{R: f, N: size})
		}
	}
	for _, way := range []struct {
		name            string
		plain, sendFile bool
		method          string
	}{
		{"HEAD/net", false, false, "HEAD"}, {"HEAD/http1", true, false, "HEAD"},
		{"GET/net", false, false, "GET"}, {"GET/http1", true, false, "GET"}, {"GET/http1-SendFile", true, true, "GET"},
	} {
		b.Run(way.name, func(b *testing.B) {
			w := start(b, way.plain, handler(way.sendFile), func(s *http.Server) {
				s.ReadHeaderTimeout, s.IdleTimeout, s.ConnState = time.Minute, time.Minute, nil
			})
			c, err := net.Dial("tcp", w.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			r := bufio.NewReaderSize(c, 128<<10)
			raw := []byte(way.method + typical[len("HEAD"):])
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(raw); err != nil {
					b.Fatal(err)
				}
				for { // to the end of the header
					line, err := r.ReadSlice('\n')
					if err != nil {
						b.Fatal(err)
					}
					if len(line) == 2 {
						break
					}
				}
				if way.method == "GET" {
					if _, err := r.Discard(size); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
