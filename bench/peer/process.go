//go:build linux

package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Process is a running peer.
type Process struct {
	Peer *Peer
	Addr netip.AddrPort
	Data string // folder with its content

	// Profiles is where it serves profiles of itself, if Options asked for them and it can.
	Profiles netip.AddrPort

	cmd    *exec.Cmd
	log    string
	exited chan struct{} // closed when the process has ended
	peak   int64         // what PeakMemory was at most before it was reset
}

// Time limits. They end runs that hang and are far from what any peer needs.
const (
	startLimit = time.Minute
	stopLimit  = 30 * time.Second
)

// Options say how to run a peer.
type Options struct {
	Data     string // folder to store in; it must exist
	Conf     string // folder for configuration and log
	Profiles bool   // serve profiles, if it can
}

// Start runs p at a free port of loopback and waits until it accepts connections, or until ctx
// is done. The process lives until Stop.
func (p *Peer) Start(ctx context.Context, o Options) (*Process, error) {
	proc, err := p.Launch(o)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(startLimit)
	for {
		conn, err := net.Dial("tcp", proc.Addr.String())
		if err == nil {
			return proc, conn.Close()
		}
		select {
		case <-proc.exited:
			return nil, proc.Failed(errors.New("it ended at once"))
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), proc.Stop())
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(proc.Failed(fmt.Errorf("it does not listen after %s", startLimit)), proc.Stop())
		}
	}
}

// Launch is Start that does not wait.
func (p *Peer) Launch(o Options) (*Process, error) {
	if err := os.MkdirAll(o.Conf, 0o700); err != nil {
		return nil, err
	}
	where := place{data: o.Data, conf: o.Conf}
	var err error
	if where.addr, err = freePort(); err != nil {
		return nil, err
	}
	if o.Profiles && p.Name == Berth {
		if where.profiles, err = freePort(); err != nil {
			return nil, err
		}
	}
	args, env, err := p.command(where)
	if err != nil {
		return nil, fmt.Errorf("configure %s: %w", p.Name, err)
	}
	proc := &Process{
		Peer: p, Addr: where.addr, Profiles: where.profiles, Data: o.Data,
		log:    filepath.Join(o.Conf, p.Name+".log"),
		exited: make(chan struct{}),
	}
	logFile, err := os.Create(proc.log)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	proc.cmd = exec.Command(p.program, args...)
	proc.cmd.Env = append(environ(), env...)
	proc.cmd.Dir = o.Conf
	proc.cmd.Stdout, proc.cmd.Stderr = logFile, logFile
	// A group of its own, so that a Ctrl-C of the terminal reaches the benchmark alone, which then stops it.
	proc.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: p.orphaned}
	if err := proc.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	go func() {
		proc.cmd.Wait() // how a peer exits is its own affair
		close(proc.exited)
	}()
	return proc, nil
}

// Stop ends the process, gracefully at first.
func (p *Process) Stop() error {
	p.Resume()
	syscall.Kill(p.PID(), syscall.SIGTERM)
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopLimit):
	}
	p.kill()
	<-p.exited
	return fmt.Errorf("%s did not stop within %s after SIGTERM and was killed", p.Peer.Name, stopLimit)
}

// Exited tells whether the process has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// kill ends the process and all that it started.
func (p *Process) kill() error { return syscall.Kill(-p.PID(), syscall.SIGKILL) }

// Pause stops the process from using any processor until Resume.
func (p *Process) Pause() { syscall.Kill(-p.PID(), syscall.SIGSTOP) }

// Resume undoes Pause.
func (p *Process) Resume() { syscall.Kill(-p.PID(), syscall.SIGCONT) }

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Failed adds what the process logged last to an error that it probably caused.
func (p *Process) Failed(err error) error {
	out, rerr := os.ReadFile(p.log)
	if rerr != nil || len(bytes.TrimSpace(out)) == 0 {
		return fmt.Errorf("%s: %w", p.Peer.Name, err)
	}
	const limit = 2000
	if len(out) > limit {
		out = out[len(out)-limit:]
	}
	return fmt.Errorf("%s: %w; its log ends with:\n%s", p.Peer.Name, err, out)
}

// environ returns the environment without the settings of peers that someone has made for other
// purposes.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "BERTH_") || strings.HasPrefix(s, "REGISTRY_") || strings.HasPrefix(s, "OTEL_")
	})
}

// freePort returns an address of loopback that nobody listens on.
func freePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return netip.ParseAddrPort(l.Addr().String())
}
