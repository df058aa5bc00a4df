package blobtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

func testList(t *testing.T, open func() blob.Store) {
	s := open()
	if keys := list(t, s); len(keys) != 0 {
		t.Errorf("List of an empty store yields %q", keys)
	}
	begin := time.Now()
	want := map[string]int64{}
	for i := range 30 {
		want[put(t, s, content(uint64(i), i*1000))] = int64(i * 1000)
	}
	w := create(t, s)
	write(t, w, content(7, 1<<20))
	if _, err := w.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	want[w.Key()] = -1 // of any size
	got := map[string]int64{}
	for info, err := range open().List(t.Context(), time.Time{}, time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := got[info.Key]; twice {
			t.Errorf("List yields %s twice", info.Key)
		}
		if size, ok := want[info.Key]; !ok || size >= 0 && size != info.Size {
			t.Errorf("List yields %s of %d bytes; want %d, %v", info.Key, info.Size, size, ok)
		}
		got[info.Key] = info.Size
	}
	if len(got) != len(want) {
		t.Errorf("List yields %d entries of %d", len(got), len(want))
	}
	hour := begin.Truncate(time.Hour)
	end := time.Now().Truncate(time.Hour).Add(time.Hour)
	for _, test := range []struct {
		name     string
		from, to time.Time
		want     int
	}{
		{"since this hour", begin, time.Time{}, len(want)},
		{"this hour", hour, end, len(want)},
		{"this hour, in another time zone", hour.In(time.FixedZone("", 9*3600+1800)), end.In(time.FixedZone("", -5*3600)), len(want)},
		{"until the next hour's 59th minute", time.Time{}, end.Add(59 * time.Minute), len(want)},
		{"until this hour", time.Time{}, begin, 0},
		{"the hour before", hour.Add(-time.Hour), hour.Add(59 * time.Minute), 0},
		{"from the next hour on", end, time.Time{}, 0},
		{"nothing", end, hour, 0},
		{"the day before", hour.Add(-24 * time.Hour), hour, 0},
		{"long ago to far ahead", hour.AddDate(-100, 0, 0), hour.AddDate(100, 0, 0), len(want)},
	} {
		if keys := listBetween(t, s, test.from, test.to); len(keys) != test.want {
			t.Errorf("List of %s yields %d entries, want %d", test.name, len(keys), test.want)
		}
	}
}

func testListStops(t *testing.T, open func() blob.Store) {
	s := open()
	for range 10 {
		put(t, s, []byte("x"))
	}
	n := 0
	for _, err := range s.List(t.Context(), time.Time{}, time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("List yielded %d entries before the loop was left", n)
	}
	// A loop may delete what it sees.
	for info, err := range s.List(t.Context(), time.Time{}, time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), info.Key); err != nil {
			t.Fatal(err)
		}
	}
	if keys := list(t, s); len(keys) != 0 {
		t.Errorf("List yields %q after all is deleted", keys)
	}
	put(t, s, []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, err := range s.List(ctx, time.Time{}, time.Time{}) {
		if last != nil {
			t.Error("List goes on after an error")
		}
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("List with an ended context: %v", last)
	}
}
