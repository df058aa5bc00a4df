package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// Every failure has the form of spec.md#error-codes; what is the server's own affair stays in
// its log.
func TestErrors(t *testing.T) {
	for name, test := range map[string]struct {
		h      HandlerFunc
		status int
		body   string
		logged string
		header map[string]string
	}{
		"of the client": {
			h:      func(*Response, *http.Request) error { return oci.Errorf(oci.CodeNameInvalid, "no <b>") },
			status: 400, body: `{"errors":[{"code":"NAME_INVALID","message":"no \u003cb\u003e"}]}`,
		},
		"with a detail and a status": {
			h: func(*Response, *http.Request) error {
				return fmt.Errorf("wrapped: %w", oci.Errorf(oci.CodeDenied, "no").WithDetail([]int{1}).WithStatus(412))
			},
			status: 412, body: `{"errors":[{"code":"DENIED","message":"no","detail":[1]}]}`,
		},
		"with a detail that cannot be shown": {
			h: func(*Response, *http.Request) error {
				return oci.Errorf(oci.CodeDenied, "no").WithDetail(make(chan int))
			},
			status: 403, body: `{"errors":[{"code":"UNKNOWN","message":"the error cannot be shown"}]}`,
		},
		"too many": {
			h:      func(*Response, *http.Request) error { return oci.Errorf(oci.CodeTooManyRequests, "later") },
			status: 429, body: `{"errors":[{"code":"TOOMANYREQUESTS","message":"later"}]}`,
			header: map[string]string{"Retry-After": "1"},
		},
		"after headers were chosen": {
			h: func(w *Response, _ *http.Request) error {
				w.Header().Set("ETag", "x")
				w.Header().Set("Docker-Content-Digest", "x")
				w.Header().Set("Cache-Control", "immutable")
				w.Header().Set("Content-Length", "1000")
				w.Header().Set("Content-Type", "application/octet-stream")
				return oci.Errorf(oci.CodeBlobUnknown, "no")
			},
			status: 404, body: `{"errors":[{"code":"BLOB_UNKNOWN","message":"no"}]}`,
			header: map[string]string{"Etag": "", "Docker-Content-Digest": "", "Cache-Control": "", "Content-Type": "application/json"},
		},
		"of the server": {
			h:      func(*Response, *http.Request) error { return errors.New("secret path") },
			status: 500, logged: "secret path",
		},
		"a panic": {
			h:      func(*Response, *http.Request) error { panic("secret state") },
			status: 500, logged: "secret state",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := serve(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, test.h)
			resp, err := http.Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			s.Close()
			if resp.StatusCode != test.status || test.body != "" && string(body) != test.body {
				t.Errorf("status %d: %s", resp.StatusCode, body)
			}
			var form struct {
				Errors []struct{ Code, Message string }
			}
			if err := json.Unmarshal(body, &form); err != nil || len(form.Errors) != 1 || form.Errors[0].Code == "" {
				t.Errorf("the body has another form: %s", body)
			}
			for k, v := range test.header {
				if got := resp.Header.Get(k); got != v {
					t.Errorf("%s is %q, expected %q", k, got, v)
				}
			}
			if test.logged != "" && (!strings.Contains(log.String(), test.logged) || bytes.Contains(body, []byte(test.logged))) {
				t.Errorf("%q belongs into the log alone; log:\n%s\nbody: %s", test.logged, log.String(), body)
			}
			if id := resp.Header.Get("X-Request-Id"); id == "" || test.logged != "" && !strings.Contains(log.String(), id) {
				t.Errorf("the request id %q is not in the log:\n%s", id, log.String())
			}
		})
	}
}

// observed is what an Observer was told.
type observed struct {
	Route, Method string
	Status        int
	In, Out       int64
}

type observations struct {
	mu  sync.Mutex
	all []observed
}

func (o *observations) Observe(route, method string, status int, in, out int64, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, observed{route, method, status, in, out})
}

func TestObserverAndAccessLog(t *testing.T) {
	var log bytes.Buffer
	o := new(observations)
	s := serve(t, Options{Log: slog.New(slog.NewJSONHandler(&log, nil)), AccessLog: true, Observer: o}, func(w *Response, r *http.Request) error {
		w.Route = "route" + r.URL.Path
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
		if r.URL.Path == "/cut" {
			err = errors.New("broken")
		}
		return err
	})
	post := func(path, body string) {
		resp, err := http.Post(s.URL+path, "", strings.NewReader(body))
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	post("/a", "12345")
	post("/b", "")
	post("/cut", "1")
	s.Close()
	if want := []observed{{"route/a", "POST", 200, 5, 1}, {"route/b", "POST", 200, 0, 1}, {"route/cut", "POST", 200, 1, 1}}; !reflect.DeepEqual(o.all, want) {
		t.Errorf("observed %+v, expected %+v", o.all, want)
	}
	var first struct {
		Msg, ID, Client, Method, Path string
		Status, In, Out               int
	}
	line, _, _ := strings.Cut(log.String(), "\n")
	if err := json.Unmarshal([]byte(line), &first); err != nil {
		t.Fatal(err)
	}
	if first.ID == "" || first.Client != "127.0.0.1" || first.Method != "POST" || first.Path != "/a" || first.Status != 200 || first.In != 5 || first.Out != 1 {
		t.Errorf("the access log has %s", line)
	}
}

// An interruption ends a read that waits, and every later one, over both protocols.
func TestInterruptBody(t *testing.T) {
	for name, client := range map[string]*http.Client{"HTTP/1.1": {}, "HTTP/2": http2Client()} {
		t.Run(name, func(t *testing.T) {
			reading := make(chan *Response, 1)
			result := make(chan error, 2)
			s := serve(t, Options{Idle: time.Hour}, func(w *Response, r *http.Request) error {
				io.ReadFull(r.Body, make([]byte, 5))
				reading <- w
				_, err := r.Body.Read(make([]byte, 1))
				result <- err
				_, err = r.Body.Read(make([]byte, 1))
				result <- err
				return oci.Errorf(oci.CodeSizeInvalid, "interrupted")
			})
			body, pipe := io.Pipe()
			defer pipe.Close()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "PUT", s.URL, body)
			if err != nil {
				t.Fatal(err)
			}
			answered := make(chan int, 1)
			go func() {
				resp, err := client.Do(req)
				if err != nil {
					answered <- 0
					return
				}
				resp.Body.Close()
				answered <- resp.StatusCode
			}()
			io.WriteString(pipe, "12345")
			(<-reading).InterruptBody()
			for range 2 {
				select {
				case err := <-result:
					if !errors.Is(err, ErrIdle) {
						t.Errorf("the read ended with %v", err)
					}
				case <-time.After(patience):
					t.Fatal("the read goes on")
				}
			}
			if status := <-answered; status != http.StatusBadRequest {
				t.Errorf("status %d", status)
			}
		})
	}
}

// A request whose body has been read is not interrupted, nor is the next one on its connection.
func TestInterruptNothing(t *testing.T) {
	s := serve(t, Options{Idle: time.Hour}, func(w *Response, r *http.Request) error {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return err
		}
		w.InterruptBody()
		if n, err := r.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("after the end: %d, %v", n, err)
		}
		select {
		case <-r.Context().Done():
			return errors.New("the request was given up")
		case <-time.After(10 * time.Millisecond): // time for the server to mistake it for the client's leaving
		}
		return nil
	})
	for name, client := range map[string]*http.Client{"HTTP/1.1": {}, "HTTP/2": http2Client()} {
		for _, body := range []string{"12345", "", "12345"} {
			resp, err := client.Post(s.URL, "", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("%s, body %q: status %d", name, body, resp.StatusCode)
			}
		}
	}
}
