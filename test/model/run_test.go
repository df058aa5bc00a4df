package model

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthregistry/berth/test/service"
)

const (
	// stepsVariable is how many steps each database makes, seedVariable what they follow from.
	stepsVariable = "BERTH_MODEL_STEPS"
	seedVariable  = "BERTH_MODEL_SEED"
	// round is how many steps a database makes until a new one takes its place.
	round = 500
	// reading is after how many steps everything is read as well, in each way in which clients read it. What is there is compared after each step.
	reading = 20
	// shrinking is how often a failure is made again to find out which steps it needs.
	shrinking = 300
)

func number(t *testing.T, variable string, usual uint64) uint64 {
	s := os.Getenv(variable)
	if s == "" {
		return usual
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// TestSQLite drives a registry on SQLite. Without a variable, it takes about a minute of one core.
func TestSQLite(t *testing.T) {
	t.Parallel()
	drive(t, 20_000, func() string { return "" })
}

// TestPostgres drives one on PostgreSQL, where a step takes several times as long.
func TestPostgres(t *testing.T) {
	service.NeedPostgres(t)
	t.Parallel()
	drive(t, 4_000, func() string { return service.Postgres(t).URL })
}

// drive makes rounds of steps. Each has a seed of its own, which makes it again. With the race detector, it makes fewer.
func drive(t *testing.T, usual uint64, database func() string) {
	steps := number(t, stepsVariable, usual/slower)
	seed := number(t, seedVariable, uint64(time.Now().UnixNano()))
	t.Logf("%s=%d", seedVariable, seed)
	tally := make(map[string]int)
	for ; steps > 0; seed++ {
		rng := rand.New(rand.NewPCG(seed, 0))
		var all []step
		for range min(steps, round) {
			all = append(all, newStep(rng))
		}
		f := run(t, database(), all, tally)
		if f == nil {
			steps -= uint64(len(all))
			continue
		}
		text := f.text
		all, f = shrink(t, database, all[:f.made], f)
		t.Fatalf("%s=%d: %s\n\nwhich comes down to these %d steps:\n%s\n\n%s", seedVariable, seed, text, len(all), strings.Join(f.log, "\n"), f.text)
	}
	t.Logf("steps and how they ended: %v", tally)
}

// failed is how a run failed.
type failed struct {
	text string
	log  []string // of what the steps did
	made int      // steps, the failing one included
}

// run makes steps on an empty database, and takes everything away at the end. It returns nil if that went well.
func run(t *testing.T, database string, steps []step, tally map[string]int) (f *failed) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		var w *world
		defer func() {
			p := recover()
			if w != nil {
				w.close()
			}
			if p == nil {
				return
			}
			text := fmt.Sprintf("panic: %v\n%s", p, debug.Stack())
			if known, ok := p.(failure); ok {
				text = known.text
			}
			f = &failed{text: text, made: made}
			if w != nil {
				f.log = w.log
			}
		}()
		w = open(t, database)
		for i, s := range steps {
			made++
			before := len(w.log)
			kinds[s.kind].do(w, s)
			for _, line := range w.log[before:] {
				if tally != nil && !strings.HasPrefix(line, "wait") {
					tally[kinds[s.kind].name+": "+line[strings.LastIndex(line, ": ")+2:]]++
				}
			}
			if i%reading == reading-1 {
				w.checkAll(w.at(s))
			} else {
				w.check(w.at(s))
			}
		}
		made = len(steps)
		w.checkAll(0)
		w.fsck()
		w.end()
	})
	return f
}

// end deletes everything, takes it all back, deletes it once more, and lets the collector take it away.
func (w *world) end() {
	for organization := range w.freezes {
		must(w.db.DeleteFreeze(w.ctx, organization), "unfreeze")
	}
	for _, p := range w.protections {
		must(w.db.DeleteProtection(w.ctx, p.Organization, p.ID), "unprotect")
	}
	for organization := range w.quotas {
		must(w.db.DeleteQuota(w.ctx, organization), "no quota")
	}
	clear(w.freezes)
	clear(w.quotas)
	w.protections = nil
	deleteAll := func() {
		w.wait(time.Millisecond)
		for _, name := range repositories {
			_, err := w.registries[0].DeleteManifests(w.ctx, name, 1<<60, 100, time.Now(), actor, nil)
			w.same("delete "+string(name), w.state.deleteAll(name, true, now()), of(err))
		}
		w.checkAll(now() - 1)
	}
	deleteAll()
	w.wait(keep)
	w.collect()
	w.checkAll(now() - 1)
	for _, name := range repositories {
		for _, m := range w.repositories[name].inTrash() {
			_, err := w.registries[0].Undelete(w.ctx, name, m.digest, actor, nil)
			w.same(fmt.Sprintf("undelete %s@%s", name, m.name), w.state.undelete(name, m, now()), of(err))
		}
	}
	w.checkAll(now() - 1)
	w.fsck()
	deleteAll()
	w.wait(keep + time.Millisecond)
	w.collect()
	w.wait(2 * grace)
	w.collect()
	w.checkAll(now() - 1)
	for _, r := range w.repositories {
		if r.exists() {
			fail("the model of %s is not empty", r.name)
		}
	}
}

// shrink leaves out as many steps as it can such that a run still fails.
func shrink(t *testing.T, database func() string, steps []step, f *failed) ([]step, *failed) {
	runs := 0
	for size := len(steps) / 2; size > 0 && runs < shrinking; {
		smaller := false
		for from := 0; from < len(steps) && runs < shrinking; runs++ {
			fewer := slices.Delete(slices.Clone(steps), from, min(from+size, len(steps)))
			if again := run(t, database(), fewer, nil); again != nil {
				steps, f, smaller = fewer[:again.made], again, true
			} else {
				from += size
			}
		}
		if size > 1 || !smaller {
			size /= 2
		}
	}
	return steps, f
}
