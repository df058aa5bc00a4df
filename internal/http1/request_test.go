package http1

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// echo tells what the handler was given.
func echo(w http.ResponseWriter, r *http.Request) {
	r.Header.Write(w)
	fmt.Fprintf(w, "%s %q %q %q %q %q host=%q length=%d te=%q close=%v remote=%v body=%v", r.Method, r.URL, r.URL.Path, r.URL.RawQuery, r.RequestURI, r.Proto,
		r.Host, r.ContentLength, r.TransferEncoding, r.Close, strings.HasPrefix(r.RemoteAddr, "127.0.0.1:"), r.Body == http.NoBody)
}

// rawRequests are sent as they are. methods is what the answers are to.
var rawRequests = map[string]struct {
	plain   int // how many requests are served here
	methods string
	raw     string
}{
	"GET":                       {1, "GET", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
	"HEAD":                      {1, "HEAD", "HEAD /a/b HTTP/1.1\r\nHost: x:80\r\n\r\n"},
	"many fields":               {1, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\nF: 6\r\nG: 7\r\nH: 8\r\nI: 9\r\nJ: 10\r\n\r\n"},
	"repeated fields":           {1, "GET", "GET / HTTP/1.1\r\nAccept: a\r\nHost: x\r\nACCEPT: b\r\naccept: c\r\nX: 1\r\nx: 2\r\n\r\n"},
	"odd names and values":      {1, "GET", "GET / HTTP/1.1\r\nhOsT: x\r\nx-a--b: \t v \t w \t\r\n!#$: \r\nY:\r\nZ:a:b\r\nU: \xc3\xa9\xff\r\n\r\n"},
	"IPv6 host":                 {1, "GET", "GET / HTTP/1.1\r\nHost: [::1]:5000\r\n\r\n"},
	"query":                     {1, "GET", "GET /v2/_catalog?n=10&last=a%2Fb&&=?/ HTTP/1.1\r\nHost: x\r\n\r\n"},
	"escaped path":              {1, "GET", "GET /a%2fb%20c/%C3%A9?%zz HTTP/1.1\r\nHost: x\r\n\r\n"},
	"reserved characters":       {1, "GET", "GET /a:b@c!$&'()*+,=~_-.%41 HTTP/1.1\r\nHost: x\r\n\r\n"},
	"two slashes":               {1, "GET", "GET //a/../b//c HTTP/1.1\r\nHost: x\r\n\r\n"},
	"upgrade is asked for":      {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"},
	"pipelined":                 {3, "GET HEAD GET", "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nHEAD /2 HTTP/1.1\r\nHost: x\r\n\r\nGET /3 HTTP/1.1\r\nHost: x\r\n\r\n"},
	"pipelined with a POST":     {1, "GET POST GET", "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /3 HTTP/1.1\r\nHost: x\r\n\r\n"},
	"pipelined, then malformed": {1, "GET GET", "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost : x\r\n\r\n"},
	"pipelined, a part":         {1, "GET", "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HT"},
	"pipelined, then closed":    {1, "GET GET", "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /3 HTTP/1.1\r\nHost: x\r\n\r\n"},
	"CRLF in front":             {0, "GET", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"},
	"CRLF between":              {1, "GET GET", "GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"},

	"keep-alive":     {1, "GET", "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"},
	"kept, then not": {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"},
	"close":          {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"},
	"CLOSE":          {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nCONNECTION: a, CLOSE\r\n\r\n"},
	"HTTP/1.0":       {0, "GET", "GET / HTTP/1.0\r\nHost: x\r\n\r\n"},
	"HTTP/1.0, kept": {0, "GET", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"},
	"HTTP/1.2":       {0, "GET", "GET / HTTP/1.2\r\nHost: x\r\n\r\n"},
	"HTTP/2.0":       {0, "GET", "GET / HTTP/2.0\r\nHost: x\r\n\r\n"},
	"http/1.1":       {0, "GET", "GET / http/1.1\r\nHost: x\r\n\r\n"},
	"no version":     {0, "GET", "GET /\r\nHost: x\r\n\r\n"},
	"two spaces":     {0, "GET", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n"},
	"space behind":   {0, "GET", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n"},
	"tab":            {0, "GET", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n"},
	"no target":      {0, "GET", "GET HTTP/1.1\r\nHost: x\r\n\r\n"},
	"empty target":   {0, "GET", "GET  HTTP/1.1\r\nHost: x\r\n\r\n"},
	"get":            {0, "GET", "get / HTTP/1.1\r\nHost: x\r\n\r\n"},
	"POST":           {0, "POST", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"},
	"OPTIONS *":      {0, "OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"},
	"no method":      {0, "GET", " / HTTP/1.1\r\nHost: x\r\n\r\n"},
	"TLS":            {0, "GET", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n\r\n\r\n"},

	"absolute form":        {0, "GET", "GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n"},
	"relative target":      {0, "GET", "GET a HTTP/1.1\r\nHost: x\r\n\r\n"},
	"asterisk":             {0, "GET", "GET * HTTP/1.1\r\nHost: x\r\n\r\n"},
	"fragment":             {0, "GET", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"},
	"bad escape":           {0, "GET", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n"},
	"semicolon":            {0, "GET", "GET /?a;b HTTP/1.1\r\nHost: x\r\n\r\n"},
	"odd characters":       {0, "GET", "GET /\"<>\\^`{|} HTTP/1.1\r\nHost: x\r\n\r\n"},
	"NUL in the target":    {0, "GET", "GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n"},
	"bytes in the target":  {0, "GET", "GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n"},
	"DEL in the target":    {0, "GET", "GET /\x7f HTTP/1.1\r\nHost: x\r\n\r\n"},
	"LF in the target":     {0, "GET", "GET /a\nb HTTP/1.1\r\nHost: x\r\n\r\n"},
	"CR in the target":     {0, "GET", "GET /a\rb HTTP/1.1\r\nHost: x\r\n\r\n"},
	"a space in the query": {0, "GET", "GET /?a b HTTP/1.1\r\nHost: x\r\n\r\n"},

	"no Host":             {0, "GET", "GET / HTTP/1.1\r\n\r\n"},
	"no Host, but others": {0, "GET", "GET / HTTP/1.1\r\nA: b\r\n\r\n"},
	"empty Host":          {0, "GET", "GET / HTTP/1.1\r\nHost:\r\n\r\n"},
	"two Hosts":           {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"},
	"an empty Host more":  {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nHost:\r\n\r\n"},
	"bad Host":            {0, "GET", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"},
	"slash in Host":       {0, "GET", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"},
	"bytes in Host":       {0, "GET", "GET / HTTP/1.1\r\nHost: \xff\r\n\r\n"},

	"bare LF":              {0, "GET", "GET / HTTP/1.1\nHost: x\n\n"},
	"bare LF in a line":    {0, "GET", "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n"},
	"bare LF at the end":   {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\n\n"},
	"bare LF, then more":   {0, "GET GET", "GET / HTTP/1.1\r\nHost: x\r\n\nGET / HTTP/1.1\r\nHost: y\r\n\r\n"},
	"bare CR":              {0, "GET", "GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n"},
	"CR CR LF":             {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\r\n\r\n"},
	"NUL":                  {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA: a\x00b\r\n\r\n"},
	"DEL":                  {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA: a\x7fb\r\n\r\n"},
	"folded":               {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"},
	"folded with a tab":    {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tContent-Length: 5\r\n\r\n"},
	"folded first":         {0, "GET", "GET / HTTP/1.1\r\n Host: x\r\n\r\n"},
	"folded empty":         {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\n \r\n\r\n"},
	"space before colon":   {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n"},
	"space in a name":      {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n"},
	"no colon":             {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n"},
	"no name":              {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n"},
	"byte in a name":       {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA\xff: b\r\n\r\n"},
	"NUL in a name":        {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n"},
	"Host with a space":    {0, "GET", "GET / HTTP/1.1\r\nHost : x\r\n\r\n"},
	"head too long for us": {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", maxHead) + "\r\n\r\n"},
	"target too long":      {0, "GET", "GET /" + strings.Repeat("a", maxHead) + " HTTP/1.1\r\nHost: x\r\n\r\n"},
	"as long as can be":    {1, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", maxHead-len("GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n")) + "\r\n\r\n"},
	"head much too long":   {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 2<<20) + "\r\n\r\n"},

	"GET with a body":         {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"},
	"a length of nothing":     {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"},
	"chunked":                 {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"},
	"CL and TE":               {0, "GET GET", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"},
	"TE and CL":               {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"},
	"TE twice":                {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"},
	"TE with a space":         {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"},
	"lengths that differ":     {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
	"lengths that are equal":  {0, "GET GET", "GET / HTTP/1.1\r\nHost: x\r\ncontent-length: 1\r\nCONTENT-LENGTH: 1\r\n\r\naGET / HTTP/1.1\r\nHost: x\r\n\r\n"},
	"a signed length":         {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na"},
	"continue":                {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n"},
	"expectation":             {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nExpect: wonders\r\n\r\n"},
	"trailer":                 {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nTrailer: A\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n"},
	"TE":                      {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n"},
	"pragma":                  {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nPragma: no-cache\r\n\r\n"},
	"of the connection":       {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n\r\n"},
	"HTTP/2 settings":         {0, "GET", "GET / HTTP/1.1\r\nHost: x\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"},
	"incomplete, then closed": {0, "", "GET / HTTP/1.1\r\nHost: x\r\n"},
}

// TestRequests sends the same bytes to net/http and to us: nobody must be able to tell the answers apart.
func TestRequests(t *testing.T) {
	theirs, ours := start(t, false, echo, nil), start(t, true, echo, nil)
	for name, test := range rawRequests {
		for _, way := range []string{"whole", "split"} {
			if way == "split" && len(test.raw) > 200 {
				continue
			}
			t.Run(name+", "+way, func(t *testing.T) {
				parts := []string{test.raw}
				if way == "split" {
					t.Parallel()
					parts = strings.Split(test.raw, "")
				}
				methods := strings.Fields(test.methods)
				want, wantClosed := theirs.exchange(t, methods, parts...)
				before := ours.plain.Load()
				got, closed := ours.exchange(t, methods, parts...)
				if !reflect.DeepEqual(got, want) {
					t.Errorf("the answers are\n%+v, and net/http's\n%+v", got, want)
				}
				if closed != wantClosed {
					t.Errorf("afterwards the connection is closed: %v, with net/http %v", closed, wantClosed)
				}
				if n := ours.plain.Load() - before; way == "whole" && n != int64(test.plain) {
					t.Errorf("%d requests were plain, expected %d", n, test.plain)
				}
			})
		}
	}
}
