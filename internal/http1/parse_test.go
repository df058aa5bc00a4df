package http1

import (
	"bufio"
	"bytes"
	"net/http"
	"reflect"
	"testing"
)

// FuzzParse: what is taken for plain, net/http takes for the same request.
func FuzzParse(f *testing.F) {
	for _, r := range rawRequests {
		f.Add([]byte(r.raw))
	}
	base := &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody}
	f.Fuzz(func(t *testing.T, b []byte) {
		given := bytes.Clone(b)
		got, n := parse(b, base)
		if !bytes.Equal(b, given) {
			t.Fatal("parse changes what it reads")
		}
		if got == nil {
			return
		}
		clear(b[:n]) // nothing may refer to it
		r := bufio.NewReaderSize(bytes.NewReader(given), len(given)+16)
		want, err := http.ReadRequest(r)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", given, err)
		}
		if left := r.Buffered(); left != len(given)-n {
			t.Errorf("%q: %d bytes are left, with net/http %d", given, len(given)-n, left)
		}
		want.Header.Del("Host") // the server does so
		type seen struct {
			Method, URI, Proto, Host string
			URL, Header, Body        any
			Length                   int64
			TE                       []string
			Close                    bool
		}
		see := func(r *http.Request) seen {
			return seen{r.Method, r.RequestURI, r.Proto, r.Host, *r.URL, r.Header, r.Body, r.ContentLength, r.TransferEncoding, r.Close}
		}
		if !reflect.DeepEqual(see(got), see(want)) {
			t.Errorf("%q is\n%+v, for net/http\n%+v", given, see(got), see(want))
		}
	})
}

// Two requests share nothing but what never changes.
func TestParseSharesNothing(t *testing.T) {
	base := new(http.Request)
	raw := []byte("GET /a HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 2\r\n\r\n")
	one, _ := parse(raw, base)
	two, _ := parse(raw, base)
	one.Header.Add("A", "x")
	one.Header.Set("B", "x")
	one.URL.Path = "/b"
	if want := (http.Header{"A": {"1"}, "B": {"2"}}); !reflect.DeepEqual(two.Header, want) || two.URL.Path != "/a" || one.Header["B"][0] != "x" {
		t.Errorf("the other one is %v %v", two.URL, two.Header)
	}
	if base.Header != nil || base.URL != nil {
		t.Error("the base has changed")
	}
}

// Every byte, at every place of a value.
func TestFieldValue(t *testing.T) {
	for c := range 256 {
		allowed := c >= ' ' && c != 0x7f || c == '\t'
		for length := 1; length <= 17; length++ {
			for at := range length {
				for _, other := range []byte{'a', '\t', 0xff} {
					b := bytes.Repeat([]byte{other}, length)
					b[at] = byte(c)
					if got := isFieldValue(string(b)); got != allowed {
						t.Fatalf("%q: %v", b, got)
					}
				}
			}
		}
	}
}
