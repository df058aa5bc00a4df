package job_test

import (
	"testing"
	"time"
	_ "time/tzdata" // where the machine has no zones

	"github.com/berthregistry/berth/internal/job"
)

func TestWindow(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse("02 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		window, now string
		open        bool
		until       string
	}{
		{"22:00-06:00", "05 21:59", false, "05 22:00"},
		{"22:00-06:00", "05 22:00", true, "06 06:00"},
		{"22:00-06:00", "06 05:59", true, "06 06:00"},
		{"22:00-06:00", "06 06:00", false, "06 22:00"},
		{"01:30-04:00", "05 00:00", false, "05 01:30"},
		{"01:30-04:00", "05 03:00", true, "05 04:00"},
		{"01:30-04:00", "05 04:00", false, "06 01:30"},
		{"00:00-23:59", "05 23:58", true, "05 23:59"},
	} {
		w, err := job.ParseWindow(c.window)
		if err != nil {
			t.Fatal(err)
		}
		if open, until := w.At(at(c.now)); open != c.open || !until.Equal(at(c.until)) || w.String() != c.window {
			t.Errorf("%s at %s: %t until %s, expected %t until %s", w, c.now, open, until, c.open, c.until)
		}
	}
	for _, s := range []string{"", "22:00", "22:00-", "22-06", "24:00-01:00", "06:00-06:00", "a-b", "01:00-02:00-03:00"} {
		if w, err := job.ParseWindow(s); err == nil {
			t.Errorf("%q is read as %s", s, w)
		}
	}
}

// What an hour change takes away or repeats does not leave a window closed, or open for ever.
func TestWindowHourChange(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	w, err := job.ParseWindow("02:15-02:45")
	if err != nil {
		t.Fatal(err)
	}
	for _, day := range []int{25, 29} { // of March and October 2026, about
		for _, month := range []time.Month{time.March, time.October} {
			now := time.Date(2026, month, day-1, 12, 0, 0, 0, zone)
			opened := 0
			for range 6 {
				open, until := w.At(now)
				if !until.After(now) {
					t.Fatalf("at %s it is until %s", now, until)
				}
				if open {
					opened++
				}
				now = until
			}
			if opened < 2 {
				t.Errorf("in %s it was open %d times in six turns", month, opened)
			}
		}
	}
}
