package hostile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// terminate sends a signal to a server that stays for a while.
func terminate(t *testing.T, s *harness.Server) {
	t.Helper()
	pid, err := strconv.Atoi(process(t, s)[len("/proc/"):])
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// refusesConnections tells whether nobody is listening any more.
func refusesConnections(s *harness.Server) bool {
	c, err := net.Dial("tcp", s.Addr)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// startToStop starts a server whose end is part of the test.
func startToStop(t *testing.T, env ...string) *harness.Server {
	t.Helper()
	s, err := harness.StartServer(plain.Get(t), t.TempDir(), harness.Settings{Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("end of the server's log:\n%s", s.LogTail())
		}
	})
	return s
}

// Asked to stop, the server lets a slow upload and a slow pull end, and takes nothing new.
func TestStopWaits(t *testing.T) {
	s := startToStop(t)
	api := harness.NewAPI(t, s)
	large := octets(harness.Random(64 << 20))
	api.PushBlob("stop/app", large)
	b := octets(harness.Random(1 << 20))

	pull := dial(t, s)
	pull.(*net.TCPConn).SetReadBuffer(16 << 10)
	fmt.Fprintf(pull, "GET /v2/stop/app/blobs/%s HTTP/1.1\r\nHost: x\r\n\r\n", large.Digest)
	reader := bufio.NewReader(pull)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	push := dial(t, s)
	fmt.Fprintf(push, "POST /v2/stop/app/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", b.Digest, b.Size)
	push.Write(b.Bytes[:1000])
	idle := dial(t, s)
	fmt.Fprint(idle, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, _ := answer(t, idle); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}

	terminate(t, s)
	if !eventually(func() bool { return refusesConnections(s) }) {
		t.Error("new connections are still taken")
	}
	hungUp(t, idle)
	push.Write(b.Bytes[1000:])
	if resp, body := answer(t, push); resp.StatusCode != 201 {
		t.Errorf("the slow upload ends with %d: %s", resp.StatusCode, body)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, large.Bytes) {
		t.Errorf("the slow pull got %d bytes, %v", len(got), err)
	}
	pull.Close()
	push.Close()
	if !eventually(func() bool { return strings.Contains(s.Log(), "msg=stopped") }) {
		t.Error("the server does not end")
	}
	s.Kill() // waits for it
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	api.Expect(200, "GET", "/v2/stop/app/blobs/"+b.Digest.String(), nil)
}

// What takes too long is cut off when the server stops, and goes on after the next start.
func TestStopCutsOff(t *testing.T) {
	s := startToStop(t, "BERTH_TIMEOUTS_STOP=1s")
	api := harness.NewAPI(t, s)
	b := octets(harness.Random(1 << 20))
	unused := api.StartUpload("stop/app")
	location := api.StartUpload("stop/app")
	api.Expect(202, "PATCH", location, b.Bytes[:1000])
	stuck := dial(t, s)
	fmt.Fprintf(stuck, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", location, len(b.Bytes)-1000)
	stuck.Write(b.Bytes[1000:5000])
	if !eventually(func() bool { return len(objects(t, s.Dir)) == 1 }) {
		t.Fatal("the upload does not begin")
	}
	var stopped sync.WaitGroup
	stopped.Go(func() { hungUp(t, stuck) })
	terminate(t, s)
	if !eventually(func() bool { return strings.Contains(s.Log(), "msg=stopped") }) {
		t.Error("the server does not end")
	}
	stopped.Wait()
	s.Kill()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	var last int
	fmt.Sscanf(api.Expect(204, "GET", location, nil).Header.Get("Range"), "0-%d", &last)
	if last < 999 || last > 4999 {
		t.Errorf("the upload goes on after byte %d", last)
	}
	api.Expect(201, "PUT", harness.WithDigest(location, b.Digest.String()), b.Bytes[last+1:])
	api.Expect(200, "GET", "/v2/stop/app/blobs/"+b.Digest.String(), nil)
	// A session without a byte has outlived the server, too.
	c := octets(harness.Random(10))
	api.Expect(201, "PUT", harness.WithDigest(unused, c.Digest.String()), c.Bytes)
}

// A second signal ends the server at once, which is as good as a crash.
func TestSecondSignal(t *testing.T) {
	s := startToStop(t)
	api := harness.NewAPI(t, s)
	works(t, api, "stop/twice")
	stuck := dial(t, s)
	fmt.Fprintf(stuck, "POST /v2/stop/twice/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n", someDigest)
	// The server asks for the body when it is at work on the request.
	if line, err := bufio.NewReader(stuck).ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("the answer begins with %q, %v", line, err)
	}
	terminate(t, s)
	if !eventually(func() bool { return refusesConnections(s) }) {
		t.Fatal("new connections are still taken")
	}
	folder := process(t, s)
	terminate(t, s)
	if !eventually(func() bool { _, err := os.Stat(folder); return err != nil || zombie(folder) }) {
		t.Error("the second signal does not end the server")
	}
	s.Kill()
	time.Sleep(10 * time.Millisecond)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	api.Expect(200, "GET", "/v2/stop/twice/manifests/works", nil)
}

// zombie tells whether a process has ended and waits for its parent to notice.
func zombie(folder string) bool {
	b, _ := os.ReadFile(folder + "/stat")
	_, after, _ := bytes.Cut(b, []byte(") "))
	return bytes.HasPrefix(after, []byte("Z"))
}
