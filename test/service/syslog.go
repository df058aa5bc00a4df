package service

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// SyslogServer is a syslog server: rsyslog. It writes what it gets to a file.
type SyslogServer struct {
	UDP, TCP, TLS string // 127.0.0.1:PORT
	Socket        string // of datagrams
	CAFile        string // the certificates to trust

	dir     string
	program string
	cmd     *exec.Cmd
}

// NewSyslog starts a syslog server that the test can stop and start. It ends with the test. Without rsyslogd the test is skipped, or fails if CI=true.
func NewSyslog(t testing.TB) *SyslogServer {
	t.Helper()
	program := need(t, "rsyslogd")
	dir, err := os.MkdirTemp("", "berth-syslog-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	s := &SyslogServer{dir: dir, program: program, Socket: filepath.Join(dir, "log"), CAFile: filepath.Join(dir, "ca.pem")}
	end, err := guard(nil, `[ -e "$1/pid" ] && kill -9 "$(cat "$1/pid")"; rm -rf "$1"`, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop()
		end()
	})
	if err := writeCertificates(s.CAFile, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err != nil {
		t.Fatal(err)
	}
	for _, to := range []*string{&s.UDP, &s.TCP, &s.TLS} {
		port, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		*to = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	port := func(address string) string {
		_, port, _ := net.SplitHostPort(address)
		return port
	}
	config := fmt.Sprintf(`
global(workDirectory="%[1]s" defaultNetstreamDriverCAFile="%[1]s/ca.pem" defaultNetstreamDriverCertFile="%[1]s/cert.pem"
  defaultNetstreamDriverKeyFile="%[1]s/key.pem")
module(load="imudp")
module(load="imtcp")
module(load="imuxsock" SysSock.Use="off")
template(name="fields" type="string" string="%%pri%% %%timestamp:::date-rfc3339%% %%hostname%% %%app-name%% %%msgid%% %%msg%%\n")
ruleset(name="all") { action(type="omfile" file="%[1]s/messages" template="fields") }
input(type="imudp" address="127.0.0.1" port="%[2]s" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="%[3]s" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="%[4]s" ruleset="all" streamDriver.Name="ossl" streamDriver.Mode="1" streamDriver.AuthMode="anon")
input(type="imuxsock" socket="%[1]s/log" useSpecialParser="off" parseHostname="on" useSysTimeStamp="off" ignoreTimestamp="off" ruleset="all" rateLimit.Interval="0")
`, dir, port(s.UDP), port(s.TCP), port(s.TLS))
	if err := os.WriteFile(filepath.Join(dir, "rsyslog.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	return s
}

// Start starts the server after Stop, at the same addresses.
func (s *SyslogServer) Start(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(s.program, "-n", "-f", filepath.Join(s.dir, "rsyslog.conf"), "-i", filepath.Join(s.dir, "pid"))
	var output strings.Builder
	s.cmd.Stdout, s.cmd.Stderr = &output, &output
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		ready := true
		if conn, err := net.Dial("tcp", s.TCP); err == nil {
			conn.Close()
		} else {
			ready = false
		}
		// A connection that ends before its handshake can make rsyslogd spin.
		if conn, err := tls.Dial("tcp", s.TLS, &tls.Config{InsecureSkipVerify: true}); err == nil {
			conn.Close()
		} else {
			ready = false
		}
		if _, err := os.Stat(s.Socket); err == nil && ready {
			return
		}
		if time.Now().After(deadline) {
			s.Stop()
			t.Fatalf("rsyslogd does not listen:\n%s", &output)
		}
	}
}

// Stop kills the server.
func (s *SyslogServer) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
	os.Remove(filepath.Join(s.dir, "pid"))
	os.Remove(s.Socket)
}

// Messages returns what the server has got: priority, time, host, program, MSGID and text of each message, with spaces between.
func (s *SyslogServer) Messages(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "messages"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	text := string(b[:strings.LastIndexByte(string(b), '\n')+1])
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
}
