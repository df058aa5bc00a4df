package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServe runs the real binary, signals included.
func TestServe(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "berth")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, string)
	}{
		{"no configuration", testNoConfiguration},
		{"refused addresses", testRefusedAddresses},
		{"graceful stop", testGracefulStop},
		{"second signal", testSecondSignal},
		{"one server a folder", testOneServerAFolder},
		{"slow loris", testSlowLoris},
		{"few files", testFewFiles},
		{"config commands", testConfigCommands},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, binary) })
	}
}

func testNoConfiguration(t *testing.T, binary string) {
	l, err := net.Listen("tcp", "127.0.0.1:5000")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	l.Close()
	dir := t.TempDir()
	p := serve(t, binary, dir)
	if p.addr != "127.0.0.1:5000" {
		t.Errorf("it serves at %s", p.addr)
	}
	if info, err := os.Stat(filepath.Join(dir, "berth-data")); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
		t.Errorf("the data folder: %v, %v", info, err)
	}
	res, err := http.Get("http://localhost:5000/v2/")
	if err != nil || res.StatusCode != 200 {
		t.Errorf("GET /v2/: %v, %v", res, err)
	}
	if rss, ok := memory(p, "VmRSS"); ok {
		t.Logf("the idle server takes %d KiB", rss)
	}
}

func testRefusedAddresses(t *testing.T, binary string) {
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0"} {
		code, out := fails(t, binary, "serve", "--listen", address)
		if code != exitUsage || !strings.Contains(out, "--insecure-open") || !strings.Contains(out, "127.0.0.1") {
			t.Errorf("listen on %s: exit code %d, %s", address, code, out)
		}
	}
	p := serve(t, binary, t.TempDir(), "--listen", ":0", "--insecure-open")
	_, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.Get("http://127.0.0.1:" + port + "/livez"); err != nil || res.StatusCode != 200 {
		t.Errorf("GET /livez: %v, %v", res, err)
	}
	if !strings.Contains(p.output(), "insecure_open is set") {
		t.Error("nothing warns of insecure_open")
	}
}

// upload begins to push a blob of 2 MiB in one request, and returns the
// connection after the first half of the body.
func upload(t *testing.T, p *process) (conn net.Conn, rest []byte) {
	t.Helper()
	blob := bytes.Repeat([]byte("berth"), 1<<20/2)
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	half := len(blob) / 2
	fmt.Fprintf(c, "POST /v2/team/app/blobs/uploads/?digest=sha256:%x HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s",
		sha256.Sum256(blob), p.addr, len(blob), blob[:half])
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		res, err := http.Get("http://" + p.metrics + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		metrics, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(metrics), "\nberth_http_requests_in_flight 1\n") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("waiting until the request is in flight")
		}
	}
	return c, blob[half:]
}

func testGracefulStop(t *testing.T, binary string) {
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		dir := t.TempDir()
		p := serve(t, binary, dir, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
		conn, rest := upload(t, p)
		p.signal(t, signal)
		p.refusesConnections(t)
		if _, err := conn.Write(rest); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != http.StatusCreated || !res.Close {
			t.Errorf("%v: the push in flight gets %v, %v", signal, res, err)
		}
		if state := p.end(t); state.ExitCode() != 0 {
			t.Errorf("%v ends the server with %v", signal, state)
		}
		// What was acknowledged is there.
		p = serve(t, binary, dir, "--listen", "127.0.0.1:0")
		got, err := http.Get("http://" + p.addr + "/v2/team/app/blobs/" + res.Header.Get("Docker-Content-Digest"))
		if err != nil || got.StatusCode != 200 {
			t.Fatalf("%v: the blob after the restart: %v, %v", signal, got, err)
		}
		if n, err := io.Copy(io.Discard, got.Body); err != nil || n != int64(2*len(rest)) {
			t.Errorf("%v: the blob has %d bytes, %v", signal, n, err)
		}
		got.Body.Close()
	}
}

func testSecondSignal(t *testing.T, binary string) {
	dir := t.TempDir()
	p := serve(t, binary, dir, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
	conn, _ := upload(t, p)
	p.signal(t, syscall.SIGTERM)
	p.refusesConnections(t)
	p.signal(t, syscall.SIGTERM)
	state := p.end(t)
	if status, ok := state.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("the second signal ends the server with %v", state)
	}
	if b, err := io.ReadAll(conn); len(b) > 0 {
		t.Errorf("the push that was cut off gets %q, %v", b, err)
	}
	serve(t, binary, dir, "--listen", "127.0.0.1:0") // and nothing is in the way of the next start
}

func testOneServerAFolder(t *testing.T, binary string) {
	dir := t.TempDir()
	p := serve(t, binary, dir, "--listen", "127.0.0.1:0")
	code, out := fails(t, binary, "serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "berth-data"))
	if code != exitFailure || !strings.Contains(out, fmt.Sprintf("in use by another server: process %d on ", p.Process.Pid)) {
		t.Errorf("a second server on the folder: exit code %d, %s", code, out)
	}
	p.signal(t, syscall.SIGKILL)
	p.end(t)
	serve(t, binary, dir, "--listen", "127.0.0.1:0")
}

// Connections that never finish a header must neither take the memory nor the service.
func testSlowLoris(t *testing.T, binary string) {
	p := serve(t, binary, t.TempDir(), "--listen", "127.0.0.1:0")
	for range 3000 {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Padding: %01024d", 0)
	}
	for i := range 50 {
		res, err := http.Get("http://" + p.addr + "/v2/")
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("request %d: %v, %v", i, res, err)
		}
		res.Body.Close()
	}
	if peak, ok := memory(p, "VmHWM"); ok {
		t.Logf("peak memory: %d KiB", peak)
		if peak > 160<<10 {
			t.Errorf("3000 slow connections take %d MiB", peak>>10)
		}
	}
}

// Where the system allows few open files, connections must not use them up.
func testFewFiles(t *testing.T, binary string) {
	script := filepath.Join(t.TempDir(), "berth")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nulimit -n 328 && exec %s \"$@\"\n", binary), 0o700); err != nil {
		t.Fatal(err)
	}
	p := serve(t, script, t.TempDir(), "--listen", "127.0.0.1:0")
	if !strings.Contains(p.output(), `"files":328,"connections":90}`) {
		t.Error("nothing says that there are few files")
	}
	for range 500 {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	res, err := http.Get("http://" + p.addr + "/v2/")
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("GET /v2/: %v, %v", res, err)
	}
	if strings.Contains(p.output(), "too many open files") {
		t.Error("the files were used up")
	}
}

func testConfigCommands(t *testing.T, binary string) {
	file := filepath.Join(t.TempDir(), "berth.yaml")
	if err := os.WriteFile(file, []byte("# mine\nsparse: all\nlisten: 127.0.0.1:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "config", "print", "--log-level", "debug")
	cmd.Env = append(environ(), "BERTH_CONFIG="+file, "BERTH_DELETE=false")
	printed, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sparse: all # " + file + ":2\n", "delete: false # BERTH_DELETE\n", "level: debug # --log-level\n", "data: ./berth-data # default\n", "# Whether clients can delete"} {
		if !strings.Contains(string(printed), want) {
			t.Errorf("the output lacks %q:\n%s", want, printed)
		}
	}
	if err := os.WriteFile(file, printed, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(binary, "config", "check", "--config", file)
	cmd.Env = environ()
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "the configuration is valid\n" {
		t.Errorf("the printed configuration: %v, %s", err, out)
	}
	serve(t, binary, t.TempDir(), "--config", file)

	if err := os.WriteFile(file, []byte("sparse: some\n\nlisen: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := file + ":1: sparse: \"some\" must be none, index or all\n" + file + ":3: lisen: there is no such setting; did you mean listen?\n"
	for _, command := range [][]string{{"config", "check"}, {"config", "print"}, {"serve"}} {
		code, out := fails(t, binary, append(command, "--config", file)...)
		if code != exitUsage || !strings.HasPrefix(out, want) {
			t.Errorf("berth %s: exit code %d, %s", strings.Join(command, " "), code, out)
		}
	}
}
