package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/journal"
	"github.com/berthregistry/berth/internal/server"
	"github.com/berthregistry/berth/internal/upstream"
)

func newRebuildCommand() *cobra.Command {
	var opts journal.RebuildOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Make a lost database again from the storage",
		Long: `Make the database of a registry again from its storage alone, when it is lost and there is no backup. Every server writes
a journal of repositories, manifests, tags and the log of tags into the storage, seconds behind what clients are told; all that is in
it comes back. The bytes of each blob are looked for, with --deep also read and compared with their digest.

No server may run. The database must be empty: move what is left of a damaged one out of the way (berth.db, berth.db-wal and berth.db-shm in
the data folder), or make a new one in PostgreSQL. A rebuild that was interrupted is run again, and begins anew.

What cannot come back: accounts, passwords, tokens, robots, organizations, teams, grants, trust rules, the audit log, certificates
ordered by ACME, and upload sessions; protected tags, freezes, quotas, retention policies, times of pulls, and what lay in the trash. Who may do what has to be set up again before clients are let in.

The exit code is 1 if something that the journal tells of is lost.`,
		Example: `  berth rebuild --data /var/lib/berth
  berth rebuild --config /etc/berth.yaml --deep`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&opts.Deep, "deep", false, "read the bytes of all blobs and check their digests")
	cmd.Flags().IntVar(&opts.Parallel, "parallel", 16, "look at `N` blobs at a time")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print losses and the report as lines of JSON")
	places := addConfigFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if opts.Parallel < 1 {
			return usagef(cmd, "--parallel must be at least 1")
		}
		cfg, err := server.Load(places())
		if err != nil {
			return tellProblems(cmd, err)
		}
		storage, err := server.OpenRebuild(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer storage.Close()
		out := cmd.OutOrStdout()
		lines := json.NewEncoder(out)
		opts.Found = func(l journal.Loss) {
			if asJSON {
				lines.Encode(l)
				return
			}
			fmt.Fprintln(out, upstream.Printable(fmt.Sprintf("LOST: %s: %s", l.Object, l.What)))
		}
		if !asJSON {
			opts.Step = func(name string) { fmt.Fprintf(out, "rebuilding: %s\n", name) }
		}
		r, err := journal.Rebuild(cmd.Context(), storage.DB, storage.Blobs, opts)
		if err != nil {
			return err
		}
		if asJSON {
			lines.Encode(r)
		} else {
			fmt.Fprintf(out, "%s repositories, %s manifests, %s tags, %s; %s moves of tags; lost: %d\n", humanize.Comma(r.Repositories),
				humanize.Comma(r.Manifests), humanize.Comma(r.Tags), countText(r.Blobs, r.Bytes), humanize.Comma(r.Moves), r.Lost)
			if !r.Newest.IsZero() {
				fmt.Fprintf(out, "The newest change is of %s.\n", r.Newest.UTC().Format(time.RFC3339))
			}
			fmt.Fprintln(out, "Accounts, rights, tokens, policies, the trash, the audit log and certificates ordered by ACME are not in the journal: set up what is needed before clients are let in.")
		}
		if r.Lost > 0 {
			return errors.New("something is lost")
		}
		return nil
	}
	return cmd
}
