package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// text is so long that it does not fit into any buffer.
var text = strings.Repeat("0123456789abcdef", 64<<10)

// handlers are compared between net/http and us. What they return is compared, too.
var handlers = map[string]func(w http.ResponseWriter, r *http.Request, file *os.File) any{
	"nothing": func(w http.ResponseWriter, r *http.Request, _ *os.File) any { return nil },
	"small": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		return written(io.WriteString(w, "hello"))
	},
	"small, in pieces": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		for range 100 {
			io.WriteString(w, "<p>")
		}
		return written(w.Write(nil))
	},
	"as much as is buffered": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		return written(io.WriteString(w, text[:bodySize]))
	},
	"one byte more": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		return written(io.WriteString(w, text[:bodySize+1]))
	},
	"one byte more, in pieces": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		io.WriteString(w, "\x1f")
		return written(io.WriteString(w, "\x8b\x08"+text[:bodySize]))
	},
	"large": func(w http.ResponseWriter, r *http.Request, _ *os.File) any { return written(w.Write([]byte(text))) },
	"large, with a length": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.Header().Set("Content-Type", "text/x")
		return written(w.Write([]byte(text)))
	},
	"large, in pieces": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		var err error
		for i := 0; i < len(text) && err == nil; i += 1000 {
			_, err = io.WriteString(w, text[i:min(i+1000, len(text))])
		}
		return err
	},
	"a length alone": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", "1000")
		return nil
	},
	"length 0": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(200)
		return written(io.WriteString(w, "x"))
	},
	"too short": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", "10")
		return written(io.WriteString(w, "short"))
	},
	"too long": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", "5")
		a := written(io.WriteString(w, "exact"))
		return []any{a, written(io.WriteString(w, "!"))}
	},
	"too long at once": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", "5")
		return written(io.WriteString(w, "too long"))
	},
	"a length that is none": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header()["Content-Length"] = []string{"-5"}
		w.Header()["Content-Type"] = []string{"text/x"}
		w.WriteHeader(200)
		return written(w.Write([]byte(text)))
	},
	"204": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", "5")
		w.Header().Set("Content-Type", "text/x")
		w.WriteHeader(204)
		return written(io.WriteString(w, "hello"))
	},
	"304": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", "5")
		w.Header().Set("Content-Type", "text/x")
		w.Header().Set("Etag", `"x"`)
		w.WriteHeader(304)
		return written(io.WriteString(w, "hello"))
	},
	"404":         func(w http.ResponseWriter, r *http.Request, _ *os.File) any { http.Error(w, "no", 404); return nil },
	"599":         func(w http.ResponseWriter, r *http.Request, _ *os.File) any { w.WriteHeader(599); return nil },
	"no status":   func(w http.ResponseWriter, r *http.Request, _ *os.File) any { w.WriteHeader(99); return nil },
	"status 1000": func(w http.ResponseWriter, r *http.Request, _ *os.File) any { w.WriteHeader(1000); return nil },
	"several": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.WriteHeader(201)
		w.WriteHeader(500)
		return nil
	},
	"redirect": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		http.Redirect(w, r, "/b", http.StatusTemporaryRedirect)
		return nil
	},
	"informational": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		io.WriteString(w, "x")
		return nil
	},
	"changes too late": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("A", "1")
		w.WriteHeader(200)
		w.Header().Set("A", "2")
		w.Header().Set("B", "2")
		w.Header().Set("Content-Length", "1")
		return written(io.WriteString(w, "hello"))
	},
	"odd fields": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		h := w.Header()
		h["Many"] = []string{"a", "b"}
		h["lower"] = []string{"a"}
		h["Lines"] = []string{" a\r\nInjected: b\nc "}
		h["Bad Name"] = []string{"a"}
		h["Bad\r\nName"] = []string{"a"}
		h[""] = []string{"a"}
		h["None"] = nil
		h["Content-Type"] = nil
		return written(io.WriteString(w, "<html>"))
	},
	"an empty type": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Type", "")
		return written(io.WriteString(w, "<html>"))
	},
	"encoded": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Encoding", "gzip")
		return written(io.WriteString(w, "<html>"))
	},
	"close": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Connection", "close")
		return written(io.WriteString(w, "bye"))
	},
	"keep-alive": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Connection", "keep-alive")
		return written(io.WriteString(w, "hello"))
	},
	"flush": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		io.WriteString(w, "a")
		w.(http.Flusher).Flush()
		io.WriteString(w, "b")
		return http.NewResponseController(w).Flush()
	},
	"flush first": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		err := http.NewResponseController(w).Flush()
		io.WriteString(w, "<p>")
		return err
	},
	"flush with a length": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "a")
		w.(http.Flusher).Flush()
		return written(io.WriteString(w, "b"))
	},
	"panic":             func(w http.ResponseWriter, r *http.Request, _ *os.File) any { panic("oh") },
	"panic, some given": func(w http.ResponseWriter, r *http.Request, _ *os.File) any { io.WriteString(w, "some"); panic("oh") },
	"panic, some sent": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	},
	"abort": func(w http.ResponseWriter, r *http.Request, _ *os.File) any { panic(http.ErrAbortHandler) },
	"abort behind a length": func(w http.ResponseWriter, r *http.Request, _ *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(2*len(text)))
		io.WriteString(w, text)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	},
	"a file": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.Header().Set("Content-Type", "text/x")
		return written64(io.Copy(w, &io.LimitedReader{R: f, N: int64(len(text))}))
	},
	"a file in strides": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.Header().Set("Content-Type", "text/x")
		for range 2 {
			http.NewResponseController(w).SetWriteDeadline(time.Now().Add(patience))
			if n, err := io.Copy(w, &io.LimitedReader{R: f, N: int64(len(text) / 2)}); err != nil {
				return written64(n, err)
			}
		}
		return nil
	},
	"a file of which nobody knows": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		return written64(io.Copy(w, &io.LimitedReader{R: f, N: int64(len(text))}))
	},
	"a file without a type": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		return written64(io.Copy(w, &io.LimitedReader{R: f, N: int64(len(text))}))
	},
	"a whole file": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		return written64(io.Copy(w, f))
	},
	"nothing of a file": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", "0")
		w.Header().Set("Content-Type", "text/x")
		return written64(io.Copy(w, &io.LimitedReader{R: f, N: 0}))
	},
	"a file behind text": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(5+len(text)))
		w.Header().Set("Content-Type", "text/x")
		io.WriteString(w, "hello")
		return written64(io.Copy(w, &io.LimitedReader{R: f, N: int64(len(text))}))
	},
	"a file that ends": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
		w.Header().Set("Content-Type", "text/x")
		return written64(io.Copy(w, &io.LimitedReader{R: f, N: int64(len(text)) + 1}))
	},
	"a connection": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.Header().Set("Content-Type", "text/x")
		c := connOf(text)
		defer c.Close()
		return written64(io.Copy(w, &io.LimitedReader{R: c, N: int64(len(text))}))
	},
	"a connection behind text": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", "25")
		w.Header().Set("Content-Type", "text/x")
		io.WriteString(w, "hello")
		c := connOf(text)
		defer c.Close()
		io.Copy(w, &io.LimitedReader{R: c, N: 15})
		return written64(io.Copy(w, &io.LimitedReader{R: c, N: 5}))
	},
	"a connection that ends": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
		w.Header().Set("Content-Type", "text/x")
		c := connOf(text)
		defer c.Close()
		return written64(io.Copy(w, &io.LimitedReader{R: c, N: int64(len(text)) + 1}))
	},
	"a closed file": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		f.Close()
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.Header().Set("Content-Type", "text/x")
		_, err := io.Copy(w, &io.LimitedReader{R: f, N: int64(len(text))})
		return errors.Is(err, os.ErrClosed)
	},
	"served content": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		http.ServeContent(w, r, "a.txt", time.Time{}, f)
		return nil
	},
	"memory": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", "100")
		return written64(io.Copy(w, &io.LimitedReader{R: strings.NewReader(text), N: 100}))
	},
	"much memory": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.Header().Set("Content-Type", "text/x")
		return written64(io.Copy(w, bytes.NewReader([]byte(text))))
	},
	"a deadline that has passed": func(w http.ResponseWriter, r *http.Request, f *os.File) any {
		http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
		io.WriteString(w, "x")
		return http.NewResponseController(w).Flush() != nil
	},
}

// connOf returns a connection over which a text comes.
func connOf(text string) *net.TCPConn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		panic(err)
	}
	peer, err := l.Accept()
	if err != nil {
		panic(err)
	}
	go func() {
		io.WriteString(peer, text)
		peer.Close()
	}()
	return c.(*net.TCPConn)
}

func written(n int, err error) any     { return fmt.Sprint(n, err) }
func written64(n int64, err error) any { return fmt.Sprint(n, err) }

// result is what happens on a connection, and in the handler.
type result struct {
	Answers []answer
	Closed  bool
	Given   any
	Logged  bool
}
