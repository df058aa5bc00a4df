package fs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// TestPowerFailure uses a store whose calls fail at random, cuts the power at
// random, and holds the store to what it acknowledged: committed objects and
// checkpoints are there with their bytes, deleted objects are not. A run
// depends on nothing but its seed, which is the subtest's name.
func TestPowerFailure(t *testing.T) {
	seeds := 200
	if testing.Short() {
		seeds = 20
	}
	var total tally
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, uint64(seed)) // for the keys
			c := &crasher{t: t, rnd: rand.New(rand.NewPCG(uint64(seed), 0)), now: time.Date(2026, 11, 21, 5, 0, 0, 0, time.UTC)}
			c.run()
			total.add(c.tally)
		})
	}
	t.Logf("%+v", total)
	if t.Failed() || total.Crashes < 3*seeds {
		return // some seeds only were asked for
	}
	if total.Committed < seeds || total.Resumed < seeds || total.Deleted < seeds || total.Failed < seeds {
		t.Errorf("too little happened to show anything: %+v", total)
	}
}

// tally counts what a run was about.
type tally struct{ Committed, Suspended, Resumed, Deleted, Failed, Crashes int }

func (t *tally) add(o tally) {
	t.Committed += o.Committed
	t.Suspended += o.Suspended
	t.Resumed += o.Resumed
	t.Deleted += o.Deleted
	t.Failed += o.Failed
	t.Crashes += o.Crashes
}

type crasher struct {
	t   *testing.T
	rnd *rand.Rand
	now time.Time
	tally

	dir   string
	sim   *sim
	store *Store

	// What the store acknowledged.
	objects map[string][]byte
	uploads map[string]upload
	gone    map[string]bool

	open map[string]*openWriter
}

// upload is one at its last checkpoint.
type upload struct {
	state blob.State
	bytes []byte
}

type openWriter struct {
	blob.Writer
	bytes []byte
}

func (c *crasher) run() {
	c.dir = c.t.TempDir()
	c.objects, c.uploads, c.gone = map[string][]byte{}, map[string]upload{}, map[string]bool{}
	c.start()
	for range 3 {
		for range 40 {
			c.step()
			c.now = c.now.Add(time.Duration(c.rnd.IntN(90)) * time.Minute)
		}
		c.crash()
		c.check()
	}
}

// start opens the store as a new process does.
func (c *crasher) start() {
	c.sim = newSim(c.dir)
	store, err := open(c.dir, Options{Reserve: 1}, c.sim, func() time.Time { return c.now })
	if err != nil {
		c.t.Fatal(err)
	}
	c.store, c.open = store, map[string]*openWriter{}
	c.sim.next = func(op, _ string) fault {
		if c.rnd.IntN(12) != 0 {
			return works
		}
		return fault(1 + c.rnd.IntN(3))
	}
}

func (c *crasher) crash() {
	for _, w := range c.open {
		w.Close() // tells the store nothing new, but closes the file
	}
	dir := c.t.TempDir()
	c.sim.powerFailure(c.t, c.rnd, c.dir, dir)
	c.dir = dir
	c.Crashes++
	c.start()
}

// check compares the store with what was acknowledged.
func (c *crasher) check() {
	next := c.sim.next
	c.sim.next = nil
	defer func() { c.sim.next = next }()
	ctx := context.Background()
	for key, want := range c.objects {
		if got, err := c.read(key); err != nil || !bytes.Equal(got, want) {
			c.t.Errorf("committed object %s: %d bytes, %v; want %d", key, len(got), err, len(want))
		}
	}
	for key, u := range c.uploads {
		w, err := c.store.Resume(ctx, u.state)
		if err != nil {
			c.t.Errorf("Resume at %d: %v", u.state.Size, err)
			continue
		}
		if _, err := w.Suspend(ctx); err != nil {
			c.t.Errorf("Suspend: %v", err)
		}
		if got, err := c.read(key); err != nil || !bytes.Equal(got, u.bytes) {
			c.t.Errorf("resumed upload %s: %d bytes, %v; want %d", key, len(got), err, len(u.bytes))
		}
	}
	for key := range c.gone {
		if _, err := c.store.Open(ctx, key); !errors.Is(err, blob.ErrNotFound) {
			c.t.Errorf("Open of deleted %s: %v", key, err)
		}
	}
	// Whatever else is there is found by List, and can be deleted.
	for info, err := range c.store.List(ctx, time.Time{}, time.Time{}) {
		if err != nil {
			c.t.Fatal(err)
		}
		if c.objects[info.Key] == nil && c.uploads[info.Key].bytes == nil {
			if err := c.store.Delete(ctx, info.Key); err != nil {
				c.t.Errorf("Delete of what a crash left: %v", err)
			}
		}
	}
	n := 0
	for range c.store.List(ctx, time.Time{}, time.Time{}) {
		n++
	}
	if want := len(c.objects) + len(c.uploads); n != want {
		c.t.Errorf("List yields %d objects and uploads, want %d", n, want)
	}
}

func (c *crasher) read(key string) ([]byte, error) {
	r, err := c.store.Open(context.Background(), key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// step does something with the store.
func (c *crasher) step() {
	ctx := context.Background()
	switch c.rnd.IntN(8) {
	case 0, 1:
		w, err := c.store.Create(ctx)
		if c.failed(err) {
			return
		}
		c.open[w.Key()] = &openWriter{Writer: w}
	case 2, 3:
		if w := pick(c.rnd, c.open); w != nil {
			c.write(w)
		}
	case 4:
		w := pick(c.rnd, c.open)
		if w == nil {
			return
		}
		delete(c.open, w.Key())
		delete(c.uploads, w.Key())
		if !c.failed(w.Commit(ctx)) {
			c.objects[w.Key()] = append([]byte{}, w.bytes...)
			c.Committed++
		}
	case 5:
		w := pick(c.rnd, c.open)
		if w == nil {
			return
		}
		end := c.rnd.IntN(2) == 0
		persist := w.Checkpoint()
		if end {
			delete(c.open, w.Key())
			persist = w.Suspend
		}
		state, err := persist(ctx)
		if !c.failed(err) {
			c.uploads[w.Key()] = upload{state, append([]byte{}, w.bytes...)}
			c.Suspended++
		}
	case 6:
		u := pick(c.rnd, c.uploads)
		if u.state.Key == "" || c.open[u.state.Key] != nil {
			return
		}
		w, err := c.store.Resume(ctx, u.state)
		if c.failed(err) {
			return
		}
		c.open[w.Key()] = &openWriter{w, bytes.Clone(u.bytes)}
		c.Resumed++
	case 7:
		keys := slices.Concat(slices.Sorted(maps.Keys(c.objects)), slices.Sorted(maps.Keys(c.uploads)))
		if len(keys) == 0 {
			return
		}
		key := keys[c.rnd.IntN(len(keys))]
		if c.open[key] != nil {
			return
		}
		delete(c.objects, key)
		delete(c.uploads, key)
		if !c.failed(c.store.Delete(ctx, key)) {
			c.gone[key] = true
			c.Deleted++
		}
	}
}

func (c *crasher) write(w *openWriter) {
	p := make([]byte, c.rnd.IntN(5000))
	for i := range p {
		p[i] = byte(1 + c.rnd.IntN(255))
	}
	_, err := w.Write(p)
	w.bytes = append(w.bytes, p...)
	if !c.failed(err) {
		return
	}
	// A Writer that failed may be dropped, to be resumed at its last checkpoint, or
	// aborted, or somebody may commit it all the same, which must fail.
	delete(c.open, w.Key())
	switch c.rnd.IntN(3) {
	case 0:
		w.Close()
	case 1:
		w.Abort()
		delete(c.uploads, w.Key())
	case 2:
		if w.Commit(context.Background()) == nil {
			c.t.Error("Commit after a failed Write succeeded")
		}
		delete(c.uploads, w.Key())
	}
}

// failed counts err, and checks that it says what failed and where.
func (c *crasher) failed(err error) bool {
	if err == nil {
		return false
	}
	c.Failed++
	if !strings.Contains(err.Error(), c.dir) && !errors.Is(err, errLost) && !errors.Is(err, errNameLost) {
		c.t.Errorf("an error that does not say where: %v", err)
	}
	return true
}

// pick returns one of m, or the zero value if there is none.
func pick[V any](rnd *rand.Rand, m map[string]V) (v V) {
	if len(m) == 0 {
		return v
	}
	return m[slices.Sorted(maps.Keys(m))[rnd.IntN(len(m))]]
}
