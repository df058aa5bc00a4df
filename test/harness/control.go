package harness

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Signal sends a signal to the process.
func (s *Server) Signal(sig os.Signal) error { return s.cmd.Process.Signal(sig) }

// Terminate asks the server to stop, and waits until it has. Restart may follow.
func (s *Server) Terminate() error {
	if err := s.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.exited:
	case <-time.After(2 * time.Minute):
		s.Kill()
		return errors.New("berth did not stop within two minutes of SIGTERM")
	}
	if !s.cmd.ProcessState.Success() {
		return fmt.Errorf("berth stopped with %v", s.cmd.ProcessState)
	}
	return nil
}
