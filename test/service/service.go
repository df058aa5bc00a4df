// Package service starts what Berth can keep its data in, for tests: real servers on loopback addresses
// of their own, with their data in folders of their own. They end with the test binary, however that ends.
package service

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// need returns the path of a program. Where it is missing the test is skipped, or fails if CI=true.
func need(t testing.TB, program string) string {
	t.Helper()
	return harness.Need(t, program)
}

// freePort returns a port of the loopback address that nothing listens on at this moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// unprivileged returns the user to run a server as that refuses to be run by root: nil for the one that runs the test.
func unprivileged(name string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// guard runs a shell script once this process has ended, be it killed, or once the function is called that guard
// returns, which waits for the script. The script's $1 and on are args.
func guard(as *syscall.Credential, script string, args ...string) (end func(), err error) {
	cmd := exec.Command("sh", append([]string{"-c", "cat >/dev/null; " + script, "guard"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Setpgid: true}
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a guard: %w", err)
	}
	return func() {
		in.Close()
		_ = cmd.Wait()
	}, nil
}
