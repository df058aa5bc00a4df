package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// StartDaemon starts a daemon that keeps everything below dir, waits until it is ready,
// and returns what stops it and removes dir.
func StartDaemon(t testing.TB, dir string, ready func() bool, path string, args ...string) (stop func() error) {
	t.Helper()
	logName := filepath.Join(dir, "log")
	log, err := os.Create(logName)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	stop = func() error {
		defer log.Close()
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
			<-exited
		}
		unmount(dir)
		return os.RemoveAll(dir)
	}
	fail := func(what string) {
		text, _ := os.ReadFile(logName)
		stop()
		t.Fatalf("%s %s:\n%s", path, what, text[max(0, len(text)-4000):])
	}
	for deadline := time.Now().Add(time.Minute); !ready(); time.Sleep(50 * time.Millisecond) {
		select {
		case <-exited:
			fail("ended")
		default:
		}
		if time.Now().After(deadline) {
			fail("is not ready after a minute")
		}
	}
	return stop
}
