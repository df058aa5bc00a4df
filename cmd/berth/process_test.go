package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long tests wait for what must happen. It is never reached when all is well.
const patience = 30 * time.Second

// process is a running "berth serve".
type process struct {
	*exec.Cmd
	addr    string
	metrics string // its address; empty if not asked for
	exited  chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// environ is the environment without settings of whoever runs the tests.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "BERTH_") })
}

// serve starts the server and waits until it serves.
func serve(t *testing.T, binary, dir string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(binary, append([]string{"serve", "--log-format", "json"}, args...)...), exited: make(chan struct{})}
	p.Dir, p.Env = dir, environ()
	stderr, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	addr := make(chan string, 1)
	go func() {
		defer close(p.exited)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.mu.Lock()
			p.log.Write(lines.Bytes())
			p.log.WriteByte('\n')
			p.mu.Unlock()
			var line struct{ Msg, Address string }
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				continue
			}
			switch line.Msg {
			case "serving metrics":
				p.metrics = line.Address
			case "serving":
				addr <- line.Address
			}
		}
		_ = p.Wait()
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("the log of process %d:\n%s", p.Process.Pid, p.output())
		}
	})
	select {
	case p.addr = <-addr:
	case <-p.exited:
		t.Fatalf("the server did not start: %s", p.output())
	case <-time.After(patience):
		t.Fatal("waiting for the server to start")
	}
	return p
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// end waits for the process.
func (p *process) end(t *testing.T) *os.ProcessState {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatal("waiting for the server to end")
	}
	return p.ProcessState
}

// refusesConnections waits until the listener is closed.
func (p *process) refusesConnections(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", p.addr)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err == nil {
			c.Close()
		}
		if time.Now().After(end) {
			t.Fatalf("waiting until the listener is closed: %v", err)
		}
	}
}

// fails runs a command that must fail, and returns its exit code and what it prints.
func fails(t *testing.T, binary string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Dir, cmd.Env = t.TempDir(), environ()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("berth %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return exit.ExitCode(), string(out)
}

// memory returns a field of /proc/PID/status in KiB, where there is such a file.
func memory(p *process, field string) (kib int, ok bool) {
	if runtime.GOOS != "linux" {
		return 0, false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, is := strings.CutPrefix(line, field+":"); is {
			_, err := fmt.Sscan(rest, &kib)
			return kib, err == nil
		}
	}
	return 0, false
}
