package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berthregistry/berth/internal/move"
)

// lineEvery is the time between two lines of progress where there is no terminal.
const lineEvery = 10 * time.Second

// moveProgress shows how a move goes on: a bar on a terminal; elsewhere a line for each step, and now and
// then one more; nothing if it is to be quiet. It is a move.Progress.
type moveProgress struct {
	errs  io.Writer
	quiet bool
	bars  *mpb.Progress // nil if there are none

	mu          sync.Mutex // guards what is written, and what follows
	bar         *mpb.Bar
	step        move.Step
	first       int64 // how much was done when the step began
	done, total int64
	since       time.Time
	told        time.Time // when the last line was written
}

func newMoveProgress(errs io.Writer, quiet bool) *moveProgress {
	p := &moveProgress{errs: errs, quiet: quiet}
	if !quiet && isTerminal(errs) {
		p.bars = mpb.New(mpb.WithOutput(errs), mpb.WithWidth(60), mpb.WithRefreshRate(150*time.Millisecond))
	}
	return p
}

func stepText(s move.Step) string {
	return [...]string{move.Blobs: "blobs", move.Check: "check", move.Rows: "rows", move.Verify: "verify"}[s]
}

// Begin implements move.Progress.
func (p *moveProgress) Begin(step move.Step, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.first, p.done, p.total, p.since = step, done, done, total, time.Now()
	if p.bars == nil {
		p.tell()
		return
	}
	if p.bar != nil {
		p.bar.Abort(true)
	}
	first, since := p.first, p.since
	p.bar = p.bars.AddBar(0,
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(stepText(step), decor.WC{W: 7, C: decor.DindentRight})),
		mpb.AppendDecorators(
			decor.Any(func(s decor.Statistics) string {
				return amountText(step, s.Current) + " / " + amountText(step, s.Total)
			}, decor.WCSyncSpace),
			decor.Any(func(s decor.Statistics) string {
				return speedText(step, s.Current-first, s.Total-s.Current, time.Since(since))
			}, decor.WCSyncSpace),
		),
	)
	p.bar.SetTotal(max(total, 1), false)
	p.bar.SetCurrent(done)
}

// Add implements move.Progress.
func (p *moveProgress) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.done > p.total {
		p.total = p.done // of what was pushed meanwhile
	}
	if p.bar != nil {
		p.bar.SetTotal(max(p.total, 1), false)
		p.bar.SetCurrent(p.done)
	} else if time.Since(p.told) >= lineEvery {
		p.tell()
	}
}

// tell prints a line, if there is something left to do. p.mu is held.
func (p *moveProgress) tell() {
	p.told = time.Now()
	if p.quiet || p.done >= p.total {
		return
	}
	fmt.Fprintf(p.errs, "%s: %s of %s %s\n", stepText(p.step), amountText(p.step, p.done), amountText(p.step, p.total),
		speedText(p.step, p.done-p.first, p.total-p.done, time.Since(p.since)))
}

// print writes a line, also if p is quiet, without disturbing the bar.
func (p *moveProgress) print(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.errs
	if p.bars != nil {
		w = p.bars
	}
	fmt.Fprintln(w, line)
}

// close removes the bar. It may be called again.
func (p *moveProgress) close() {
	p.mu.Lock()
	bar, bars := p.bar, p.bars
	p.bar, p.bars, p.quiet = nil, nil, true
	p.mu.Unlock()
	if bars == nil {
		return
	}
	if bar != nil {
		bar.Abort(true)
	}
	bars.Wait()
}

func amountText(s move.Step, n int64) string {
	if s == move.Blobs {
		return sizeText(max(n, 0))
	}
	return humanize.Comma(n)
}

// speedText says how fast n were done, and how long the rest will take.
func speedText(s move.Step, n, rest int64, took time.Duration) string {
	if n <= 0 || took < time.Second {
		return ""
	}
	perSecond := float64(n) / took.Seconds()
	left := time.Duration(float64(max(rest, 0)) / perSecond * float64(time.Second))
	return fmt.Sprintf("(%s/s, %s left)", amountText(s, int64(perSecond)), left.Round(time.Second))
}
