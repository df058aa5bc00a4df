package harness

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Settings change how a Server is started. The zero value is what someone gets who
// configures nothing.
type Settings struct {
	Env  []string // NAME=value
	Args []string // after "serve --listen ADDR --data DIR"
	// TLS says that Env or Args make the server speak TLS. Its metrics are served then, and there it is asked whether it is
	// ready, which needs no certificate.
	TLS bool
}

// Server is a running berth.
type Server struct {
	Addr string // host:port
	URL  string // http:// or https://, and Addr
	Dir  string // holds "data" and the log

	path     string
	settings Settings
	cmd      *exec.Cmd
	exited   chan struct{} // closed when the process is gone
	log      *os.File
}

// StartServer starts berth on a loopback port of its own, with its data in dir. The
// caller calls Stop.
func StartServer(path, dir string, settings Settings) (*Server, error) {
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, path: path, settings: settings, log: log}
	// Another process can take the port between the choice and its use, so try again.
	for range 5 {
		if s.Addr, err = freeAddr(); err != nil {
			break
		}
		if err = s.start(); err == nil {
			return s, nil
		}
		if !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	log.Close()
	return nil, err
}

// Start starts a server that ends with the test. The test fails if the server
// does not stop in good order, or reported a data race or a panic.
func Start(t testing.TB, settings Settings) *Server {
	t.Helper()
	s, err := StartServer(Binary(t), t.TempDir(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("end of the server's log:\n%s", s.LogTail())
		}
	})
	return s
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *Server) start() error {
	args := append([]string{"serve", "--listen", s.Addr, "--data", filepath.Join(s.Dir, "data")}, s.settings.Args...)
	s.cmd = exec.Command(s.path, args...)
	s.cmd.Dir = s.Dir
	s.cmd.Env = append(os.Environ(), s.settings.Env...)
	s.URL = "http://" + s.Addr
	ready := func() string { return s.URL }
	if s.settings.TLS {
		s.URL = "https://" + s.Addr
		s.cmd.Args = append(s.cmd.Args, "--metrics-listen", "127.0.0.1:0")
		before := len(s.Log())
		ready = func() string { return "http://" + s.metricsAddr(before) }
	}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	endWithParent(s.cmd)
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)

	client := plainHTTP()
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-s.exited:
			return fmt.Errorf("berth %s ended at its start: %v\n%s", strings.Join(args, " "), s.cmd.ProcessState, s.LogTail())
		default:
		}
		resp, err := client.Get(ready() + "/readyz")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	s.Kill()
	return fmt.Errorf("berth %s was not ready after 30 seconds\n%s", strings.Join(args, " "), s.LogTail())
}

// metricsAddr returns where the log, read on from an offset, says that metrics are served.
func (s *Server) metricsAddr(offset int) string {
	found := regexp.MustCompile(`msg="serving metrics" address=(\S+)`).FindAllStringSubmatch(s.Log()[offset:], -1)
	if found == nil {
		return ""
	}
	return found[len(found)-1][1] // of the process that was started last
}

// MetricsURL returns where the metrics of a server with TLS are.
func (s *Server) MetricsURL() string { return "http://" + s.metricsAddr(0) + "/metrics" }

// plainHTTP returns a client that changes nothing on the way: it neither follows
// redirects nor asks for compression.
func plainHTTP() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Kill ends the process as a crash does. Restart may follow.
func (s *Server) Kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// Restart starts the server again on the same address and data after Kill.
func (s *Server) Restart() error { return s.start() }

// Stop asks the server to stop and waits for it. The error tells if it did not stop
// in good order, or reported a data race or a panic while it ran.
func (s *Server) Stop() error {
	var errs []error
	select {
	case <-s.exited:
		errs = append(errs, fmt.Errorf("berth ended before it was asked to: %v", s.cmd.ProcessState))
	default:
		s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.exited:
			if !s.cmd.ProcessState.Success() {
				errs = append(errs, fmt.Errorf("berth stopped with %v", s.cmd.ProcessState))
			}
		case <-time.After(time.Minute):
			s.Kill()
			errs = append(errs, errors.New("berth did not stop within a minute of SIGTERM"))
		}
	}
	s.log.Close()
	for _, mark := range []string{"WARNING: DATA RACE", "panic: ", "panic serving", "goroutine 1 ["} {
		if log := s.Log(); strings.Contains(log, mark) {
			_, after, _ := strings.Cut(log, mark)
			errs = append(errs, fmt.Errorf("berth's log has %q: %s%.4000s", mark, mark, after))
			break
		}
	}
	return errors.Join(errs...)
}

// Log returns everything that the server wrote.
func (s *Server) Log() string {
	b, err := os.ReadFile(filepath.Join(s.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// LogTail returns the last lines that the server wrote, long ones shortened.
func (s *Server) LogTail() string {
	lines := strings.Split(s.Log(), "\n")
	var tail strings.Builder
	for _, line := range lines[max(0, len(lines)-20):] {
		fmt.Fprintf(&tail, "%.400s\n", line)
	}
	return tail.String()
}

// PID returns the process's number.
func (s *Server) PID() int { return s.cmd.Process.Pid }
