package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

// progress shows how a copy goes on: bars on a terminal, a line for each blob and
// manifest elsewhere, nothing if it is to be quiet. It is an upstream.Observer.
type progress struct {
	errs  io.Writer
	quiet bool
	bars  *mpb.Progress // nil if there are none; lines written to it stand above them
	total *mpb.Bar
	since time.Time

	mu     sync.Mutex // guards what is written, and what follows
	active map[oci.Digest]*mpb.Bar
	begun  int   // blobs with a bar so far
	sum    int64 // bytes of the blobs that were started
	sent   int64
	counts map[upstream.Outcome]int // of blobs
}

func newProgress(errs io.Writer, quiet bool) *progress {
	p := &progress{
		errs:   errs,
		quiet:  quiet,
		since:  time.Now(),
		active: map[oci.Digest]*mpb.Bar{},
		counts: map[upstream.Outcome]int{},
	}
	if !quiet && isTerminal(errs) {
		p.bars = mpb.New(mpb.WithOutput(errs), mpb.WithWidth(60), mpb.WithRefreshRate(150*time.Millisecond))
		p.total = p.newBar("total", math.MaxInt)
	}
	return p
}

// isTerminal tells whether w is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// newBar adds a bar of yet unknown length; those with lower priority are above it.
func (p *progress) newBar(name string, priority int) *mpb.Bar {
	return p.bars.AddBar(0,
		mpb.BarPriority(priority),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(name, decor.WC{W: 13, C: decor.DindentRight})),
		mpb.AppendDecorators(
			decor.Any(func(s decor.Statistics) string {
				return sizeText(s.Current) + " / " + sizeText(s.Total)
			}, decor.WCSyncSpace),
			decor.AverageSpeed(decor.SizeB1000(0), "% .0f", decor.WCSyncSpace),
		),
	)
}

// BlobStart implements upstream.Observer.
func (p *progress) BlobStart(d oci.Descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sum += d.Size
	if p.bars == nil || p.active[d.Digest] != nil {
		return
	}
	p.begun++
	bar := p.newBar(digestText(d.Digest, false), p.begun)
	bar.SetTotal(max(d.Size, 1), false)
	p.active[d.Digest] = bar
	p.total.SetTotal(max(p.sum, 1), false)
}

// BlobProgress implements upstream.Observer.
func (p *progress) BlobProgress(d oci.Descriptor, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent += n
	if bar := p.active[d.Digest]; bar != nil {
		bar.SetCurrent(max(bar.Current()+n, 0))
		p.total.SetCurrent(p.sent)
	}
}

// Done implements upstream.Observer.
func (p *progress) Done(d oci.Descriptor, outcome upstream.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !isManifestType(d.MediaType) {
		p.counts[outcome]++
	}
	if bar := p.active[d.Digest]; bar != nil {
		bar.Abort(true)
		delete(p.active, d.Digest)
	}
	switch {
	case outcome == upstream.Foreign:
		p.line("%s %s foreign layer, not copied: it is fetched from elsewhere", digestText(d.Digest, false), sizeText(d.Size))
	case outcome == upstream.Missing:
		p.line("%s not copied: the source does not have this child of the index", digestText(d.Digest, false))
	case p.bars == nil:
		p.line("%s %s %s", digestText(d.Digest, false), sizeText(d.Size), outcomeText(outcome))
	}
}

// line prints one unless p is quiet. p.mu is held.
func (p *progress) line(format string, args ...any) {
	if !p.quiet {
		p.write(p.errs, fmt.Sprintf(format, args...))
	}
}

// print writes a line to w, also if p is quiet, without disturbing the bars.
func (p *progress) print(w io.Writer, line string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.write(w, line)
}

func (p *progress) write(w io.Writer, line string) error {
	if p.bars != nil && isTerminal(w) {
		w = p.bars
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// close removes the bars and sums up, if the copy was successful.
func (p *progress) close(successful bool) {
	if p.bars != nil {
		p.mu.Lock()
		for _, bar := range p.active {
			bar.Abort(true)
		}
		p.total.Abort(true)
		p.mu.Unlock()
		p.bars.Wait()
		p.bars = nil
	}
	if successful {
		p.line("%s", p.summary())
	}
}

func (p *progress) summary() string {
	parts := []string{fmt.Sprintf("%d blobs copied", p.counts[upstream.Copied])}
	if p.sent > 0 {
		parts[0] += fmt.Sprintf(" (%s in %s)", sizeText(p.sent), time.Since(p.since).Round(100*time.Millisecond))
	}
	for _, o := range []upstream.Outcome{upstream.Mounted, upstream.Existed, upstream.Foreign} {
		if n := p.counts[o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, outcomeText(o)))
		}
	}
	return strings.Join(parts, ", ")
}

func outcomeText(o upstream.Outcome) string {
	switch o {
	case upstream.Copied:
		return "copied"
	case upstream.Mounted:
		return "mounted"
	case upstream.Existed:
		return "already there"
	case upstream.Foreign:
		return "foreign"
	case upstream.Missing:
		return "missing"
	}
	return "failed"
}
