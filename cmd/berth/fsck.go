package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/fsck"
	"github.com/berthregistry/berth/internal/server"
)

func newFsckCommand() *cobra.Command {
	var opts fsck.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check that the database and the stored bytes agree",
		Long: `Check that every blob and upload that the database knows of is stored with its size, that
every manifest is whole, and that nothing else is stored. With --deep, all bytes are read and compared
with their digests.

A check changes nothing and may run beside a server; what the server is writing at that
moment can show up as a leftover. With --repair, leftovers are removed and what can
be mended is mended. It needs the server to be stopped, unless the database is PostgreSQL: then
nodes may go on, and what may be part of a push is left alone. Nothing that a manifest needs is
ever deleted.

The exit code is 1 if content is damaged, also if only some of it could be
mended; leftovers alone are no failure.`,
		Example: `  berth fsck --data /var/lib/berth
  berth fsck --data /var/lib/berth --deep --repair
  berth fsck --config /etc/berth.yaml`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&opts.Deep, "deep", false, "read all bytes and check their digests")
	cmd.Flags().BoolVar(&opts.Repair, "repair", false, "mend what can be mended")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print findings and the report as lines of JSON")
	places := addConfigFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := server.Load(places())
		if err != nil {
			return tellProblems(cmd, err)
		}
		storage, err := server.OpenStorage(cmd.Context(), cfg, opts.Repair)
		if err != nil {
			return err
		}
		defer storage.Close()
		out := cmd.OutOrStdout()
		lines := json.NewEncoder(out)
		opts.Found = func(f fsck.Finding) {
			if asJSON {
				lines.Encode(f)
				return
			}
			word := "leftover"
			if f.Damage {
				word = "DAMAGE"
			}
			mended := ""
			if f.Mended {
				mended = " (mended)"
			}
			fmt.Fprintf(out, "%s: %s: %s%s\n", word, f.Object, f.What, mended)
		}
		opts.Settled = storage.Settled
		report, err := fsck.Run(cmd.Context(), storage.DB, storage.Blobs, opts)
		if err != nil {
			return err
		}
		if asJSON {
			lines.Encode(report)
		} else {
			fmt.Fprintf(out, "%d blobs (%d bytes), %d manifests and %d in the trash, %d uploads; damaged: %d, leftover: %d, mended: %d\n",
				report.Blobs, report.Bytes, report.Manifests, report.Trash, report.Uploads, report.Damaged, report.Leftover, report.Mended)
		}
		if report.Damaged > 0 {
			return errors.New("content is damaged")
		}
		return nil
	}
	return cmd
}
