package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/move"
	"github.com/berthregistry/berth/internal/server"
	"github.com/berthregistry/berth/internal/upstream"
)

// moveCommand is what "berth move" was asked to do.
type moveCommand struct {
	from, to     moveEnd
	switchOver   bool
	release      bool
	deep         bool
	parallel     int
	quiet        bool
	stdout, errs io.Writer
}

// moveEnd is a registry as the command line names it: by a configuration file, or by a data folder.
type moveEnd struct {
	name   string
	folder bool
	cfg    *server.Config
}

func newMoveCommand() *cobra.Command {
	var c moveCommand
	cmd := &cobra.Command{
		Use:   "move --from FROM --to TO",
		Short: "Move a registry to another database and store, while it is served",
		Long: `Move a registry from one database and blob store to others: from the embedded database and a folder to
PostgreSQL and a bucket, back, or any other pairing. FROM and TO are configuration files as "berth serve --config" takes them,
or data folders. Environment variables and flags of the server count for neither. TO must be empty.

Without --switch, the bytes of all blobs are copied while FROM is in full service, pushes included. It can
be repeated, and interrupted at any moment: it goes on where it was. At the end it says how long the switch will take.

With --switch, the rest is copied: what was pushed meanwhile, and all rows of the database. Nobody may change FROM during that. If
it is a data folder, restart its server with "read_only: true", so that pulls go on, or stop it. If it is in PostgreSQL,
changes on all its nodes wait, and are answered with 503 after a while; pulls go on. When everything
is copied and compared, TO can be served, not before. Upload sessions that are open at that moment are not
moved: clients begin them again.

FROM is only read, so it stays the way back until something is pushed to TO.`,
		Example: `  berth move --from /var/lib/berth --to cluster.yaml
  berth move --from /var/lib/berth --to cluster.yaml --switch
  berth move --from cluster.yaml --to /var/lib/berth`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&c.from.name, "from", "", "move the registry of this configuration `FILE` or data folder")
	flags.StringVar(&c.to.name, "to", "", "move it to the database and store of this configuration `FILE`, or to this data folder")
	flags.BoolVar(&c.switchOver, "switch", false, "copy the rest, while nothing can be pushed or deleted, and make TO usable")
	flags.BoolVar(&c.release, "release", false, "with --switch from PostgreSQL: end at once, because no server is left that could write to FROM")
	flags.BoolVar(&c.deep, "deep", false, "with --switch: read all bytes at TO again and check their digests")
	flags.IntVar(&c.parallel, "parallel", 4, "copy `N` blobs at a time")
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "show no progress")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c.stdout, c.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
		if err := c.check(); err != nil {
			return usagef(cmd, "%w", err)
		}
		for _, end := range []*moveEnd{&c.from, &c.to} {
			if err := end.load(); err != nil {
				return tellProblems(cmd, err)
			}
		}
		if server.SameDatabase(c.from.cfg, c.to.cfg) {
			return usagef(cmd, "--from and --to have the same database: a move needs a new one")
		}
		return c.run(cmd.Context())
	}
	return cmd
}

// check finds mistakes of the caller.
func (c *moveCommand) check() error {
	switch {
	case c.from.name == "":
		return errors.New("--from is missing")
	case c.to.name == "":
		return errors.New("--to is missing")
	case c.parallel < 1:
		return errors.New("--parallel must be at least 1")
	case c.deep && !c.switchOver:
		return errors.New("--deep has no effect without --switch")
	case c.release && !c.switchOver:
		return errors.New("--release has no effect without --switch")
	}
	return nil
}

// load reads the configuration that the end is named by.
func (e *moveEnd) load() error {
	info, err := os.Stat(e.name)
	switch {
	case err == nil:
		e.folder = info.IsDir()
	case errors.Is(err, os.ErrNotExist):
		e.folder = !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(e.name))
	default:
		return err
	}
	places := server.Places{File: e.name}
	if e.folder {
		places = server.Places{Flags: map[string]string{"data": e.name}}
	}
	if e.cfg, err = server.Load(places); err != nil {
		return err
	}
	// To count the rows of a table takes longer than any request of a client.
	e.cfg.DatabasePool.Timeout = max(e.cfg.DatabasePool.Timeout, server.Duration(10*time.Minute))
	return nil
}

// serve is the command that serves the end.
func (e *moveEnd) serve() string {
	flag := "--config"
	if e.folder {
		flag = "--data"
	}
	return "berth serve " + flag + " " + e.name
}

func (c *moveCommand) run(ctx context.Context) (err error) {
	sameStore := server.SameBlobs(c.from.cfg, c.to.cfg)
	// Where blobs stay in a folder that gets a database, the lock of the target is more than that of the source.
	freeze := c.switchOver && !(sameStore && !c.to.cfg.Database.IsSet())
	from, err := server.OpenSource(ctx, c.from.cfg, freeze)
	if errors.Is(err, server.ErrWritten) {
		return fmt.Errorf("%w; restart it with \"read_only: true\", so that pulls go on, or stop it", err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := server.OpenTarget(ctx, c.to.cfg, sameStore)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()

	progress := newMoveProgress(c.errs, c.quiet)
	defer progress.close()
	opts := move.Options{
		From:      move.End{DB: from.DB, Blobs: from.Blobs},
		To:        move.End{DB: to.DB, Blobs: to.Blobs},
		SameStore: sameStore,
		Parallel:  c.parallel,
		Deep:      c.deep,
		Progress:  progress,
		Damaged:   func(d move.Damage) { progress.print(damageText(d)) },
	}
	if c.switchOver {
		return c.runSwitch(ctx, opts, progress)
	}
	report, err := move.Copy(ctx, opts)
	progress.close()
	if err != nil {
		return c.explain(err)
	}
	c.tellCopied(report)
	return nil
}

func (c *moveCommand) runSwitch(ctx context.Context, opts move.Options, progress *moveProgress) error {
	done, err := move.Switch(ctx, opts)
	progress.close()
	if err != nil {
		return c.explain(err)
	}
	defer done.Release()
	r := done.Report
	fmt.Fprintf(c.stdout, "The registry is at %s now: %s, and %s rows that were compared. Nothing could be changed for %s.\n",
		c.to.name, countText(r.Before+r.Copied, r.BeforeBytes+r.CopiedBytes), humanize.Comma(r.Rows), durationText(r.Frozen))
	if !c.from.cfg.Database.IsSet() || c.release {
		fmt.Fprintf(c.stdout, "Serve it (%s) and send clients there. Let no server write to %s any more: it would not be moved.\n", c.to.serve(), c.from.name)
		return nil
	}
	fmt.Fprintf(c.stdout, "Stop all servers of %s, serve %s (%s) and send clients there. Until you end this command with Ctrl-C, nothing "+
		"can be changed at %[1]s; end it when none of its servers is left.\n", c.from.name, c.to.name, c.to.serve())
	if err := done.Hold(ctx); err != nil {
		return fmt.Errorf("%w: stop all servers of %s at once; what is pushed there from now on is not at %s", err, c.from.name, c.to.name)
	}
	return nil
}

// explain adds what to do to errors of a move.
func (c *moveCommand) explain(err error) error {
	switch {
	case errors.Is(err, move.ErrDamaged):
		return fmt.Errorf("%w at %s, everything else is copied; push them again or delete the manifests that need them, let "+
			"\"berth fsck --repair\" remove those that no manifest needs, and run this command again", err, c.from.name)
	case errors.Is(err, move.ErrDone):
		return fmt.Errorf("%w: serve it (%s)", err, c.to.serve())
	}
	return err
}

func (c *moveCommand) tellCopied(r move.Report) {
	before := ""
	if r.Before > 0 {
		before = fmt.Sprintf(", %s before", countText(r.Before, r.BeforeBytes))
	}
	stop := fmt.Sprintf("Restart the server of %s with \"read_only: true\", so that pulls go on, or stop it.", c.from.name)
	if c.from.cfg.Database.IsSet() {
		stop = fmt.Sprintf("Nothing has to be stopped at first: changes on all servers of %s will wait, or fail with 503.", c.from.name)
	}
	fmt.Fprintf(c.stdout, `%s copied%s. What is left is the switch:
1. %s
2. Run this command again with --switch. It copies what is pushed until then and %s rows: nothing
   can be pushed or deleted for %s.
3. Stop the servers of %s, start those of %s (%s) and send clients there.
`, countText(r.Copied, r.CopiedBytes), before, stop, humanize.Comma(r.Rows), estimateText(r.Frozen), c.from.name, c.to.name, c.to.serve())
}

func countText(blobs, bytes int64) string {
	return fmt.Sprintf("%s blobs (%s)", humanize.Comma(blobs), sizeText(bytes))
}

// estimateText is an estimate as people say it.
func estimateText(d time.Duration) string {
	switch {
	case d < time.Second:
		return "about a second"
	case d < 10*time.Minute:
		return fmt.Sprintf("about %s", d.Round(time.Second))
	}
	return fmt.Sprintf("about %d minutes", int(d.Round(time.Minute).Minutes()))
}

func durationText(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

func damageText(d move.Damage) string {
	needed := "no manifest needs it"
	if len(d.NeededBy) > 0 {
		needed = "needed in " + strings.Join(d.NeededBy, ", ")
	}
	return upstream.Printable(fmt.Sprintf("DAMAGE: blob %s: %s; %s", d.Digest, d.What, needed))
}
