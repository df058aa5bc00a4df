package server

import (
	"io"
	"sync"
	"time"
)

const (
	// logDelay is how long a line may wait to be written together with others. At
	// tens of thousands of requests a second, a write for each costs more than the line.
	logDelay = 50 * time.Millisecond
	logBytes = 32 << 10 // that wait at most
)

// LogWriter gathers log lines and writes them a moment later. It may be used
// concurrently. Close writes what is left.
type LogWriter struct {
	to io.Writer

	mu      sync.Mutex
	lines   []byte
	pending bool // a flush is coming
}

// NewLogWriter returns a LogWriter to w.
func NewLogWriter(w io.Writer) *LogWriter { return &LogWriter{to: w} }

// Write takes a line. Failures of the writer below are not reported: there is nowhere to say so.
func (w *LogWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, p...)
	if len(w.lines) >= logBytes {
		w.flush()
	} else if !w.pending {
		w.pending = true
		time.AfterFunc(logDelay, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.pending = false
			w.flush()
		})
	}
	return len(p), nil
}

// Close writes what is left. More can be written, and closed, afterwards.
func (w *LogWriter) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
}

func (w *LogWriter) flush() {
	if len(w.lines) > 0 {
		w.to.Write(w.lines)
		w.lines = w.lines[:0]
	}
}
