package harness

import (
	"os/exec"
	"strings"
	"syscall"

	"os"
)

// endWithParent has the kernel end the process when the test process dies without
// cleaning up, as it does when a test runs into its time limit.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}

// unmount unmounts what a daemon left mounted at or below dir.
func unmount(dir string) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	lines := strings.Split(string(b), "\n")
	for i := len(lines) - 1; i >= 0; i-- { // the last mounted first
		f := strings.Fields(lines[i])
		if len(f) > 1 && (f[1] == dir || strings.HasPrefix(f[1], dir+"/")) {
			syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
}
