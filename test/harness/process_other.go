//go:build !linux

package harness

import "os/exec"

// endWithParent does nothing: only Linux can.
func endWithParent(*exec.Cmd) {}

// unmount does nothing: the daemons that mount run on Linux.
func unmount(string) {}
