//go:build linux

package peer

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// start runs the write limit, which is built from this tree.
func start(t *testing.T) *Process {
	t.Helper()
	f := &Finder{Module: "../..", Build: t.TempDir(), Log: t.Logf}
	p, err := f.Find(t.Context(), Limit)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := p.Start(t.Context(), Options{Data: t.TempDir(), Conf: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proc.Stop() })
	return proc
}

// send puts n bytes.
func send(t *testing.T, proc *Process, n int) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", proc.Addr.String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	body := strings.Repeat("x", n)
	if _, err := conn.Write([]byte("PUT /x HTTP/1.1\r\nContent-Length: " + strconv.Itoa(n) + "\r\n\r\n" + body)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
}

func TestCostsOfAProcess(t *testing.T) {
	proc := start(t)
	before, err := proc.CPU()
	if err != nil {
		t.Fatal(err)
	}
	send(t, proc, 64<<20)
	after, err := proc.CPU()
	if err != nil {
		t.Fatal(err)
	}
	// To hash 64 MiB takes a few milliseconds on any processor; a clock in ticks could miss them.
	if used := after - before; used < time.Millisecond || used > 20*time.Second {
		t.Errorf("64 MiB took %s of processor time", used)
	}
	peak, err := proc.PeakMemory()
	if err != nil || peak < 1<<20 || peak > 1<<30 {
		t.Errorf("peak of memory: %d, %v", peak, err)
	}
	if err := proc.ResetPeak(); err != nil {
		t.Fatal(err)
	}
	if ever, err := proc.PeakEver(); err != nil || ever < peak {
		t.Errorf("after a reset the peak ever is %d, %v; it was %d", ever, err, peak)
	}
}

func TestPauseAndStop(t *testing.T) {
	proc := start(t)
	proc.Pause()
	conn, err := net.DialTimeout("tcp", proc.Addr.String(), time.Second) // the kernel accepts
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := []byte("PUT /x HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 100)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a paused process answered: %v", err)
	}
	proc.Resume()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 100)); err != nil {
		t.Errorf("after Resume: %v", err)
	}
	if proc.Exited() {
		t.Error("a running process is taken for an ended one")
	}
	// A paused process can be stopped as well.
	proc.Pause()
	if err := proc.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTimeout("tcp", proc.Addr.String(), time.Second); err == nil {
		t.Error("the stopped process still listens")
	}
	if !proc.Exited() {
		t.Error("the stopped process has not ended")
	}
}

func TestStartTellsWhyAProcessEnded(t *testing.T) {
	f := &Finder{Module: "../..", Build: t.TempDir(), Log: t.Logf}
	p, err := f.Find(t.Context(), Limit)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Start(t.Context(), Options{Data: filepath.Join(t.TempDir(), "missing"), Conf: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("error: %v", err)
	}
}

func TestNginxIsConfiguredSoThatItStarts(t *testing.T) {
	f := &Finder{Log: t.Logf}
	p, err := f.Find(t.Context(), Nginx)
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	proc, err := p.Start(t.Context(), Options{Data: t.TempDir(), Conf: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); len(proc.PIDs()) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the workers of nginx are not seen") // they start after it listens
		}
	}
	pids := proc.PIDs()
	if err := proc.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
			t.Errorf("process %d still runs", pid)
		}
	}
}
