package job

import (
	"fmt"
	"strings"
	"time"
)

// Window is a time of day, by the clock of this machine and in its time zone. It may go over midnight.
type Window struct{ from, to time.Duration } // since midnight; they differ

// ParseWindow reads HH:MM-HH:MM.
func ParseWindow(s string) (*Window, error) {
	from, to, ok := strings.Cut(s, "-")
	a, errA := time.Parse("15:04", from)
	b, errB := time.Parse("15:04", to)
	if !ok || errA != nil || errB != nil || a.Equal(b) {
		return nil, fmt.Errorf("%.30q is not a time of day: write HH:MM-HH:MM, such as 22:00-06:00", s)
	}
	midnight := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	return &Window{a.Sub(midnight), b.Sub(midnight)}, nil
}

// String returns what ParseWindow reads.
func (w *Window) String() string {
	text := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", d/time.Hour, d%time.Hour/time.Minute) }
	return text(w.from) + "-" + text(w.to)
}

// At tells whether the window is open, and when it closes or opens next.
func (w *Window) At(t time.Time) (open bool, until time.Time) {
	clock := func(day int, d time.Duration) time.Time {
		// By the clock on the wall, which an hour may be missing from, or twice in.
		return time.Date(t.Year(), t.Month(), t.Day()+day, int(d/time.Hour), int(d%time.Hour/time.Minute), 0, 0, t.Location())
	}
	for day := -1; ; day++ {
		opens, closes := clock(day, w.from), clock(day, w.to)
		if w.to < w.from {
			closes = clock(day+1, w.to)
		}
		switch {
		case t.Before(opens):
			return false, opens
		case t.Before(closes):
			return true, closes
		}
	}
}
