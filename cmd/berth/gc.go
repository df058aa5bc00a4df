package main

import (
	"cmp"
	"net/http"
	"strconv"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/meta"
)

func newGCCommand() *cobra.Command {
	m := new(management)
	status := &cobra.Command{
		Use: "status", Short: "Show how far the collection of garbage is, and what the last one took away", Args: cobra.NoArgs,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			var s admin.CollectionStatus
			if err := m.call(cmd.Context(), http.MethodGet, "collection", nil, &s); err != nil {
				return err
			}
			return m.show(cmd, s, append(jobRows(s.JobStatus), [2]string{"This pass", collectionText(s.Pass)}, [2]string{"Last pass", collectionText(s.Last)},
				[2]string{"In the trash", trashText(s.Last)})...)
		}),
	}
	return m.group("gc", "Collect what no manifest needs any more, at once, or not for a while", append([]*cobra.Command{status}, jobCommands(m, "collection", "Collection")...)...)
}

// collectionText tells what a pass has taken away.
func collectionText(p *gc.Progress) string {
	if p == nil {
		return ""
	}
	text := "begun " + ageText(p.Began)
	if !p.Ended.IsZero() {
		text = "ended " + ageText(p.Ended) + ", took " + durationText(p.Ended.Sub(p.Began))
	}
	return text + ": " + countText(p.Blobs, p.Bytes) + ", " + humanize.Comma(p.Uploads) + " uploads, " + humanize.Comma(p.Objects) + " objects deleted, " +
		humanize.Comma(p.Rows) + " rows read"
}

// trashText tells what lay in the trash after a pass.
func trashText(p *gc.Progress) string {
	if p == nil || p.InTrash.Manifests == 0 {
		return ""
	}
	text := humanize.Comma(p.InTrash.Manifests) + " manifests, " + sizeText(p.InTrash.Bytes) + " that nothing else needs"
	if p.InTrash.More {
		text = "at least " + text
	}
	return text
}

// jobRows tells where and whether periodic work goes on.
func jobRows(s admin.JobStatus) [][2]string {
	state := "waits for its time"
	switch {
	case !s.Paused.IsZero():
		state = "paused " + ageText(s.Paused.Time) + " by " + s.PausedBy
	case s.Node != "":
		state = "at work on " + s.Node + ", begun " + ageText(s.Since.Time)
	case s.Asked:
		state = "asked for"
	}
	return [][2]string{{"State", state}, {"Last error", s.LastError}}
}

// jobCommands are run, pause and resume.
func jobCommands(m *management, noun, name string) []*cobra.Command {
	do := func(verb, short, long, done string) *cobra.Command {
		return &cobra.Command{
			Use: verb, Short: short, Long: long, Args: cobra.NoArgs,
			RunE: m.run(func(cmd *cobra.Command, _ []string) error {
				if err := m.call(cmd.Context(), http.MethodPost, noun+"/"+verb, struct{}{}, nil); err != nil {
					return err
				}
				m.done(cmd, "%s %s.", name, done)
				return nil
			}),
		}
	}
	return []*cobra.Command{
		do("run", "Begin at once", "A node begins within seconds, also outside of its window, if one is configured. A run that is under way goes on, and another one follows it.", "is asked for: a node begins within seconds"),
		do("pause", "Stop, and do not begin again until \"resume\"", "Whichever node is at it stops within seconds. What was done stays done.", "is paused"),
		do("resume", "Go on after \"pause\"", "It goes on where it was, when it is due.", "goes on when it is due"),
	}
}

func newScrubCommand() *cobra.Command {
	m := new(management)
	status := &cobra.Command{
		Use: "status", Short: "Show how far the reading of all blobs is, and how many are damaged", Args: cobra.NoArgs,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			var s admin.ScrubStatus
			if err := m.call(cmd.Context(), http.MethodGet, "scrub", nil, &s); err != nil {
				return err
			}
			rows := append(jobRows(s.JobStatus), [2]string{"This pass", scrubText(s, false)}, [2]string{"Last pass", scrubText(s, true)})
			if !s.VerifiedSince.IsZero() {
				rows = append(rows, [2]string{"All verified since", ageText(s.VerifiedSince.Time)})
			}
			for _, damage := range []string{"rotten", "missing", "unreadable"} {
				rows = append(rows, [2]string{"Blobs " + damage, humanize.Comma(s.Damaged[meta.Damage(damage)])})
			}
			return m.show(cmd, s, rows...)
		}),
	}
	list := &cobra.Command{
		Use: "ls", Short: "List the blobs that are known to be damaged", Args: cobra.NoArgs,
		Long: `Rotten blobs have other bytes than they should, missing ones have none: neither is given out, and clients that are about to push are told that it is not there, so
that the next push of the same digest mends it. Unreadable ones could not be read when they were looked at.`,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			return listAll(cmd, m, "scrub/damaged", nil, []string{"DIGEST", "SIZE", "DAMAGE", "FOUND", "IN"}, func(b admin.DamagedBlob) []string {
				in := "-"
				if len(b.Repositories) > 0 {
					in = string(b.Repositories[0])
				}
				if n := len(b.Repositories); n > 1 {
					in += " and " + strconv.Itoa(n-1) + cmp.Or(map[bool]string{true: " or more"}[n == admin.MaxHolders], " more")
				}
				return []string{b.Digest.String(), sizeText(b.Size), string(b.Damage), ageText(b.Found), in}
			})
		}),
	}
	return m.group("scrub", "Read all that is stored, to find and mend what the storage has lost or changed",
		append([]*cobra.Command{status, list}, jobCommands(m, "scrub", "Scrub")...)...)
}

// scrubText tells what a pass has read.
func scrubText(s admin.ScrubStatus, last bool) string {
	p := s.Pass
	if last {
		p = s.Last
	}
	if p == nil {
		return ""
	}
	text := "begun " + ageText(p.Began)
	if last {
		text = "ended " + ageText(p.Ended) + ", took " + durationText(p.Ended.Sub(p.Began))
	}
	return text + ": " + countText(p.Blobs, p.Bytes) + ", " + humanize.Comma(p.Damaged) + " damaged, " + humanize.Comma(p.Unreadable) + " unreadable, " +
		humanize.Comma(p.Mended) + " mended"
}
