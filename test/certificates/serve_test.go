package certificates

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// What is pushed over TLS comes back, over either protocol, whole and in parts.
func TestPushAndPull(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "127.0.0.1")
	s := start(t, a.env())
	for _, h2 := range []bool{false, true} {
		api := a.api(t, s, h2)
		repo := fmt.Sprintf("tls/h2-%v", h2)
		large := harness.NewBlob(v1.MediaTypeImageLayer, harness.Random(5<<20))
		image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, []byte("{}")), large)
		api.PushImage(repo, "1", image)
		if got := api.Expect(200, "GET", "/v2/"+repo+"/blobs/"+large.Digest.String(), nil); !bytes.Equal(got.Bytes, large.Bytes) {
			t.Errorf("h2=%v: the blob is another", h2)
		}
		got := api.Do("GET", "/v2/"+repo+"/blobs/"+large.Digest.String(), nil, harness.Header{"Range": "bytes=1000-3000000"})
		if got.StatusCode != 206 || !bytes.Equal(got.Bytes, large.Bytes[1000:3000001]) {
			t.Errorf("h2=%v: the range is answered with %d and %d bytes", h2, got.StatusCode, len(got.Bytes))
		}
		if want := map[bool]int{false: 1, true: 2}[h2]; got.ProtoMajor != want {
			t.Errorf("the protocol is %s", got.Proto)
		}
	}
}

func TestCurl(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "localhost", "127.0.0.1")
	s := start(t, a.env())
	curl := harness.NewClient(t, "curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code} %{http_version}")
	_, port, _ := net.SplitHostPort(s.Addr)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--cacert", a.file("ca.crt"), "--http1.1", s.URL + "/v2/"}, "200 1.1"},
		{[]string{"--cacert", a.file("ca.crt"), "https://localhost:" + port + "/v2/"}, "200 2"},
		{[]string{"http://" + s.Addr + "/v2/"}, "400 1"}, // TLS is spoken here; versions of curl write 1.0 or 1
	} {
		if got := curl.Run(tt.args...); strings.TrimSuffix(got, ".0") != tt.want {
			t.Errorf("curl %q prints %q, expected %q", tt.args, got, tt.want)
		}
	}
	if out, err := exec.Command(curl.Path, "-sS", s.URL+"/v2/").CombinedOutput(); err == nil || !strings.Contains(string(out), "certificate") {
		t.Errorf("without the authority: %v, %s", err, out)
	}
}

// openssl, which still knows the old versions, is refused with them.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	openssl := harness.Need(t, "openssl")
	a := newAuthority(t, "127.0.0.1")
	s := start(t, a.env())
	for _, tt := range []struct {
		flags []string
		want  string // in the output; empty for a refusal
	}{
		{[]string{"-tls1_3"}, "TLSv1.3"},
		{[]string{"-tls1_2"}, "ECDHE-ECDSA-AES"},
		{[]string{"-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"}, "CHACHA20"},
		{[]string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"}, ""},
		{[]string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, ""},
		{[]string{"-tls1", "-cipher", "ALL:@SECLEVEL=0"}, ""},
		{[]string{"-alpn", "h2"}, "ALPN protocol: h2"},
		{[]string{"-alpn", "acme-tls/1"}, ""}, // no authority is being answered
	} {
		cmd := exec.Command(openssl, append([]string{"s_client", "-connect", s.Addr, "-CAfile", a.file("ca.crt"), "-verify_return_error"}, tt.flags...)...)
		out, err := cmd.CombinedOutput()
		if tt.want == "" {
			if err == nil || !strings.Contains(string(out), "alert") {
				t.Errorf("openssl %q is not refused: %v\n%s", tt.flags, err, out)
			}
		} else if err != nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("openssl %q: %v, the output lacks %q\n%s", tt.flags, err, tt.want, out)
		}
	}
}

// metric returns the value of a metric, whose labels are part of the name.
func metric(t *testing.T, s *harness.Server, name string) float64 {
	t.Helper()
	resp, err := http.Get(s.MetricsURL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(name) + " (.*)$").FindSubmatch(b)
	if found == nil {
		t.Fatalf("there is no metric %s", name)
	}
	v, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// New files are used without a restart, and the metric tells which are in use. What is broken changes nothing.
func TestNewFilesWithoutRestart(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "127.0.0.1")
	s := start(t, a.env())
	label := fmt.Sprintf("{certificate=%q}", a.file("server.crt"))
	shown := func() string {
		c, err := tls.Dial("tcp", s.Addr, &tls.Config{RootCAs: a.pool(t)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		leaf := c.ConnectionState().PeerCertificates[0]
		if got := metric(t, s, "berth_tls_certificate_expiry_timestamp_seconds"+label); int64(got) != leaf.NotAfter.Unix() {
			t.Errorf("the metric says %v, the certificate %v", got, leaf.NotAfter.Unix())
		}
		return leaf.Subject.CommonName
	}
	if got := shown(); got != "127.0.0.1" {
		t.Errorf("shown at first: %s", got)
	}
	for _, f := range []string{"server.crt", "server.key"} {
		if err := os.Rename(a.file(f), a.file("old-"+f)); err != nil {
			t.Fatal(err)
		}
	}
	stale := func() float64 { return metric(t, s, "berth_tls_certificate_stale"+label) }
	eventually(t, "the loss is noticed", func() bool { return stale() == 1 })
	if got := shown(); got != "127.0.0.1" {
		t.Errorf("shown without files: %s", got)
	}
	if log := s.Log(); strings.Count(log, "certificate cannot be used, the one before stays") != 1 {
		t.Errorf("the log does not tell of it, once:\n%s", log)
	}
	berth(t, "cert", "self-signed", "--out", a.dir, "second.example.com", "127.0.0.1")
	eventually(t, "the second certificate is in use", func() bool { return stale() == 0 })
	if got := shown(); got != "second.example.com" {
		t.Errorf("shown at last: %s", got)
	}
}

// The start fails with what to do, before anything is made.
func TestStartWithWrongFiles(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "127.0.0.1")
	addr, _ := freeAddr(t)
	dir := t.TempDir()
	cmd := exec.Command(harness.Binary(t), "serve", "--listen", addr, "--data", dir+"/data", "--tls-certificate", a.file("server.crt"), "--tls-key", a.file("ca.key"))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "certificate "+a.file("server.crt")+" with key "+a.file("ca.key")+": ") {
		t.Errorf("%v: %s", err, out)
	}
}

// Clients that do not end their handshakes neither keep others out nor stay.
func TestHandshakeFlood(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "127.0.0.1")
	s := start(t, a.env("BERTH_TIMEOUTS_HEADER=1s", "BERTH_LIMITS_CONNECTIONS=100"))
	api := a.api(t, s, true)
	var clients sync.WaitGroup
	for i := range 300 { // more than may be connected
		c, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		clients.Go(func() {
			defer c.Close()
			switch i % 3 {
			case 0: // says nothing
			case 1:
				io.WriteString(c, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") // the beginning of a hello
			case 2:
				tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake() // and nothing more, or a failure to make room
			}
			io.Copy(io.Discard, c) // until the server hangs up
		})
	}
	api.Expect(200, "GET", "/v2/", nil)
	clients.Wait()
	api.PushBlob("tls/flood", harness.NewBlob(v1.MediaTypeImageLayer, harness.Random(1000)))
}

// Beyond this machine TLS is not enough, since it keeps nobody out; certificates of clients are.
func TestOpenToOthers(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "127.0.0.1")
	check := func(args ...string) (string, error) {
		out, err := exec.Command(harness.Binary(t), append([]string{"config", "check", "--listen", ":5000",
			"--tls-certificate", a.file("server.crt"), "--tls-key", a.file("server.key"), "--tls-client-ca", a.file("ca.crt")}, args...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := check(); err == nil || !strings.Contains(out, "there is no access control") {
		t.Errorf("TLS alone: %v, %s", err, out)
	}
	if out, err := check("--tls-client-certificate", "required"); err != nil {
		t.Errorf("with certificates of clients: %s", out)
	}
}
