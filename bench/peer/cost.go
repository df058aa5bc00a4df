//go:build linux

package peer

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the processor time that the process and its children have used, threads that
// have ended included.
func (p *Process) CPU() (time.Duration, error) {
	total, err := CPU(p.PIDs()...)
	if err != nil {
		err = fmt.Errorf("%s: %w", p.Peer.Name, err)
	}
	return total, err
}

// CPU returns the processor time that processes have used. It reads the kernel's clock of each process: the figure that
// /proc/PID/stat shows in ticks of 10 ms, to the nanosecond.
func CPU(pids ...int) (time.Duration, error) {
	total := time.Duration(0)
	for _, pid := range pids {
		const cpuClockSched = 2 // clock_getcpuclockid(3): the clock of process pid
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|cpuClockSched), &ts); err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
		}
		total += time.Duration(ts.Nano())
	}
	return total, nil
}

// PeakMemory returns the largest resident set, in bytes, since the start or the last ResetPeak, summed over the
// process and its children.
func (p *Process) PeakMemory() (int64, error) {
	total := int64(0)
	for _, pid := range p.PIDs() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, fmt.Errorf("memory of %s: %w", p.Peer.Name, err)
		}
		_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			return 0, fmt.Errorf("memory of %s: process %d has no VmHWM", p.Peer.Name, pid)
		}
		kib, err := strconv.ParseInt(string(fields[0]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("memory of %s: %w", p.Peer.Name, err)
		}
		total += kib << 10
	}
	p.peak = max(p.peak, total)
	return total, nil
}

// ResetPeak makes PeakMemory begin anew from the present size.
func (p *Process) ResetPeak() error {
	if _, err := p.PeakMemory(); err != nil { // for PeakEver
		return err
	}
	for _, pid := range p.PIDs() {
		// proc_pid_clear_refs(5): 5 resets the peak of the resident set.
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return fmt.Errorf("reset the memory peak of %s: %w", p.Peer.Name, err)
		}
	}
	return nil
}

// PeakEver returns the largest resident set since the start, in bytes, whatever was reset in
// between.
func (p *Process) PeakEver() (int64, error) {
	_, err := p.PeakMemory()
	return p.peak, err
}

// PIDs returns the process and its children, such as the workers of nginx.
func (p *Process) PIDs() []int {
	pids := []int{p.PID()}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID()))
	if err != nil {
		return pids
	}
	for field := range strings.FieldsSeq(string(children)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Self returns the processor time that this process has used.
func Self() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano()), err
}

// Busy returns the time for which the processors of the machine were not idle, added up
// since it was started. Waiting for a disk is idle.
func Busy() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal guest guest_nice
	if len(fields) < 9 {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture that Go runs on
	total := time.Duration(0)
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if idle, iowait := 3, 4; i != idle && i != iowait {
			total += time.Duration(n) * tick
		}
	}
	return total, nil
}
