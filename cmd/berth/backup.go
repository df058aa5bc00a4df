package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berthregistry/berth/internal/backup"
	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/move"
	"github.com/berthregistry/berth/internal/server"
	"github.com/berthregistry/berth/internal/upstream"
)

func newBackupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Copy a registry, and look after the copies",
		Long: `Copy a registry to a folder or bucket, a set each time, and look after the sets. A set has everything of one moment: the database with
accounts and rights, and the bytes of all blobs, of which only new ones are copied. Whoever reads a set reads secrets: protect it like the registry itself.

PLACE is a folder, or a bucket as s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION, with credentials from the environment
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), from files that AWS's tools use, or of the machine's role.

Servers make sets by themselves with the setting backup.to: "run" asks them for one at once, "status" shows how far it is. "create" makes one in this process.`,
	}
	cmd.AddCommand(newBackupCreateCommand(), newBackupListCommand(), newBackupVerifyCommand(), newBackupPruneCommand())
	addCommands(cmd, newBackupJobCommands()...)
	return cmd
}

// backupPlace is a flag that names where backups are.
type backupPlace struct {
	name  string
	place server.BackupPlace
}

func (p *backupPlace) add(flags *pflag.FlagSet, name, usage string) {
	p.name = name
	flags.VarP(p, name, "", usage)
}

// Set implements pflag.Value.
func (p *backupPlace) Set(s string) error { return p.place.UnmarshalText([]byte(s)) }

// String implements pflag.Value.
func (p *backupPlace) String() string { return string(p.place) }

// Type implements pflag.Value.
func (p *backupPlace) Type() string { return "PLACE" }

func (p *backupPlace) open(cmd *cobra.Command) (blob.Store, error) {
	if p.place == "" {
		return nil, usagef(cmd, "--%s is missing", p.name)
	}
	if _, err := os.Stat(string(p.place)); err != nil && !p.place.IsBucket() {
		return nil, err // rather than make it
	}
	return p.place.Open(cmd.Context())
}

func newBackupCreateCommand() *cobra.Command {
	var to backupPlace
	var keep int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "create --to PLACE",
		Short: "Make a set",
		Long: `Make a set. With PostgreSQL, servers may run: what is pushed meanwhile is in the next set, and the collector deletes no bytes until this one is
made. A registry whose database is in its data folder is backed up by its server (setting backup.to, and "berth backup run"), or by this command while no server
runs.

Bytes are verified while they are copied. What was copied before an interruption is not copied again. The exit code is 1 if bytes of blobs are lost
at the registry; the set has everything else.`,
		Example: `  berth backup create --to /mnt/backup --config cluster.yaml
  berth backup create --to "s3://backups/berth?endpoint=https://s3.example.org" --data /var/lib/berth --keep 14`,
		Args: cobra.NoArgs,
	}
	to.add(cmd.Flags(), "to", "keep the set in this `PLACE`")
	cmd.Flags().IntVar(&keep, "keep", 0, "then delete all but the newest `N` sets; 0 keeps all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the set as JSON")
	places := addConfigFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if keep < 0 {
			return usagef(cmd, "--keep must be at least 0")
		}
		cfg, err := server.Load(places())
		if err != nil {
			return tellProblems(cmd, err)
		}
		if to.place == "" {
			return usagef(cmd, "--to is missing")
		}
		storage, err := server.OpenStorage(cmd.Context(), cfg, true)
		if errors.Is(err, server.ErrInUse) {
			return fmt.Errorf("%w: let that server make the set, with its setting backup.to and \"berth backup run\", or stop it meanwhile", err)
		}
		if err != nil {
			return err
		}
		defer storage.Close()
		set, err := server.BackUp(cmd.Context(), cfg, storage, to.place, keep, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)), func(digest, what string) {
			fmt.Fprintln(cmd.ErrOrStderr(), upstream.Printable(fmt.Sprintf("LOST: blob %s: %s; push an image that has it again", digest, what)))
		})
		if err != nil {
			return err
		}
		if asJSON {
			err = printJSONLine(cmd, set)
		} else {
			fmt.Fprintf(cmd.OutOrStdout(), "Set %s: %s, of which %s were copied, and the database (%s).\n", set.Name, countText(set.Blobs, set.Bytes),
				countText(set.Copied, set.CopiedBytes), sizeText(set.Database.Size))
		}
		if err == nil && set.Lost > 0 {
			err = fmt.Errorf("the bytes of %d blobs are lost at the registry", set.Lost)
		}
		return err
	}
	return cmd
}

func printJSONLine(cmd *cobra.Command, v any) error {
	return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
}

func newBackupListCommand() *cobra.Command {
	var from backupPlace
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls --from PLACE",
		Short:   "List the sets, oldest first",
		Example: `  berth backup ls --from /mnt/backup`,
		Args:    cobra.NoArgs,
	}
	from.add(cmd.Flags(), "from", "where the sets are")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a line of JSON for each")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		target, err := from.open(cmd)
		if err != nil {
			return err
		}
		sets, err := backup.Sets(cmd.Context(), target)
		if err != nil {
			return err
		}
		t := newTable(cmd.OutOrStdout(), "", "SET", "TIME", "BLOBS", "SIZE", "NEW", "LOST")
		for _, s := range sets {
			if asJSON {
				if err := printJSONLine(cmd, s); err != nil {
					return err
				}
				continue
			}
			if err := t.row(s.Name, s.At.UTC().Format(time.RFC3339), humanize.Comma(s.Blobs), sizeText(s.Bytes), sizeText(s.CopiedBytes), humanize.Comma(s.Lost)); err != nil {
				return err
			}
		}
		if asJSON {
			return nil
		}
		return t.flush()
	}
	return cmd
}

func newBackupVerifyCommand() *cobra.Command {
	var from backupPlace
	var deep bool
	cmd := &cobra.Command{
		Use:   "verify [SET] --from PLACE",
		Short: "Check that a set is whole, the newest one if none is named",
		Long: `Check that a set is whole, the newest one if none is named: that each object is there and has its size, with --deep its digest. What is damaged is noted in
the backup, and copied anew for the next set.`,
		Example: `  berth backup verify --from /mnt/backup --deep
  berth backup verify 20261122T001302Z-qx4a --from /mnt/backup`,
		Args: cobra.MaximumNArgs(1),
	}
	from.add(cmd.Flags(), "from", "where the sets are")
	cmd.Flags().BoolVar(&deep, "deep", false, "read all bytes and check their digests")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		target, err := from.open(cmd)
		if err != nil {
			return err
		}
		name := ""
		if len(args) > 0 {
			name = args[0]
		}
		set, err := backup.Find(cmd.Context(), target, name, time.Time{})
		if err != nil {
			return err
		}
		wrong := 0
		blobs, bytes, err := backup.Verify(cmd.Context(), target, set, deep, 8, "", func(what string) {
			wrong++
			fmt.Fprintln(cmd.OutOrStdout(), upstream.Printable("DAMAGE: "+what))
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Set %s: the database and %s; damaged: %d\n", set.Name, countText(blobs, bytes), wrong)
		if wrong > 0 {
			return backup.ErrDamaged
		}
		return nil
	}
	return cmd
}

func newBackupPruneCommand() *cobra.Command {
	var from backupPlace
	var keep int
	var newer time.Duration
	cmd := &cobra.Command{
		Use:   "prune --keep N --from PLACE",
		Short: "Delete old sets, and the bytes that no other set has",
		Long: `Delete all sets but the newest N, and the bytes that none of those has. Bytes that came in the last day stay: they may be part of a set that is
being made. Prune needs room for the databases of the sets that stay in the folder for temporary files.`,
		Example: `  berth backup prune --keep 14 --from /mnt/backup
  berth backup prune --keep 1 --newer-than 720h --from /mnt/backup`,
		Args: cobra.NoArgs,
	}
	from.add(cmd.Flags(), "from", "where the sets are")
	cmd.Flags().IntVar(&keep, "keep", 0, "keep the newest `N` sets, 1 at least")
	cmd.Flags().DurationVar(&newer, "newer-than", 0, "keep also sets that are younger than this, such as 720h")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if keep < 1 {
			return usagef(cmd, "--keep must be at least 1")
		}
		target, err := from.open(cmd)
		if err != nil {
			return err
		}
		opts := backup.PruneOptions{Keep: keep, Settled: backup.Settled(time.Now())}
		if newer > 0 {
			opts.Newer = time.Now().Add(-newer)
		}
		done, err := backup.Prune(cmd.Context(), target, opts)
		for _, s := range done.Sets {
			fmt.Fprintf(cmd.OutOrStdout(), "deleted set %s\n", s.Name)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s sets and %s objects (%s) deleted\n", humanize.Comma(int64(len(done.Sets))), humanize.Comma(done.Objects), sizeText(done.Bytes))
		return nil
	}
	return cmd
}

func newRestoreCommand() *cobra.Command {
	var from backupPlace
	var at, name string
	var deep, quiet bool
	cmd := &cobra.Command{
		Use:   "restore --from PLACE",
		Short: "Make a registry of a backup",
		Long: `Make a registry of a set of a backup: the newest one, or the newest that is not after a time. Database and storage, which the configuration names, must be
empty; a data folder is made if it is missing. Bytes are verified while they are copied, and rows compared. A restore that was interrupted is run again, and goes
on; until it is done, nothing else can use the registry.`,
		Example: `  berth restore --from /mnt/backup --data /var/lib/berth
  berth restore --from "s3://backups/berth?region=eu-central-1" --at 2026-11-22T00:13:02Z --config cluster.yaml`,
		Args: cobra.NoArgs,
	}
	from.add(cmd.Flags(), "from", "where the sets are")
	cmd.Flags().StringVar(&at, "at", "", "restore the newest set that is not after this `TIME`, such as 2026-11-22T00:13:02Z")
	cmd.Flags().StringVar(&name, "set", "", "restore the set of this `NAME`")
	cmd.Flags().BoolVar(&deep, "deep", false, "read all bytes again after they were copied, and check their digests")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	places := addConfigFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var moment time.Time
		if at != "" {
			var err error
			if moment, err = time.Parse(time.RFC3339, at); err != nil {
				return usagef(cmd, "--at: %q is no time such as 2026-11-22T00:13:02Z", at)
			}
		}
		if at != "" && name != "" {
			return usagef(cmd, "--at and --set exclude each other")
		}
		cfg, err := server.Load(places())
		if err != nil {
			return tellProblems(cmd, err)
		}
		target, err := from.open(cmd)
		if err != nil {
			return err
		}
		set, err := backup.Find(cmd.Context(), target, name, moment)
		if err != nil {
			return err
		}
		return restore(cmd, cfg, target, set, deep, quiet)
	}
	return cmd
}

// restore moves a set, which is a registry of its own, to where the configuration says.
func restore(cmd *cobra.Command, cfg *server.Config, from blob.Store, set backup.Set, deep, quiet bool) error {
	dir, remove, err := backup.MakeTemp("")
	if err != nil {
		return err
	}
	defer remove()
	db, err := set.Fetch(cmd.Context(), from, dir)
	if err != nil {
		return err
	}
	defer db.Close()
	to, err := server.OpenTarget(cmd.Context(), cfg, false)
	if err != nil {
		return err
	}
	defer to.Close()
	progress := newMoveProgress(cmd.ErrOrStderr(), quiet)
	done, err := move.Switch(cmd.Context(), move.Options{
		From: move.End{DB: db, Blobs: from}, To: move.End{DB: to.DB, Blobs: to.Blobs}, Parallel: 4, Deep: deep, Progress: progress,
		Damaged: func(d move.Damage) { progress.print(damageText(d)) },
	})
	progress.close()
	switch {
	case errors.Is(err, move.ErrDone):
		return errors.New("this registry has been restored there already")
	case errors.Is(err, move.ErrDamaged):
		return fmt.Errorf("%w in the backup; restore another set: \"berth backup ls\" lists them", err)
	case err != nil:
		return err
	}
	done.Release()
	r := done.Report
	fmt.Fprintf(cmd.OutOrStdout(), "Restored set %s of %s: %s, and %s rows that were compared.\n", set.Name, set.At.UTC().Format(time.RFC3339),
		countText(r.Before+r.Copied, r.BeforeBytes+r.CopiedBytes), humanize.Comma(r.Rows))
	return nil
}
