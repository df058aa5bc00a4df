package main

import (
	"cmp"
	"net/http"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

// newBackupJobCommands are those on the backups that servers make.
func newBackupJobCommands() []*cobra.Command {
	m := new(management)
	status := &cobra.Command{
		Use: "status", Short: "Show how far the backup of the servers is, and what the last set has", Args: cobra.NoArgs,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			var s admin.BackupStatus
			if err := m.call(cmd.Context(), http.MethodGet, "backup", nil, &s); err != nil {
				return err
			}
			rows := append(jobRows(s.JobStatus), [2]string{"Place", cmp.Or(s.Configured, "none (backup.to)")}, [2]string{"This run", backupRunText(s)})
			if last := s.Last; last != nil {
				rows = append(rows, [2]string{"Last set", last.Name + ", " + ageText(last.At)}, [2]string{"In", s.To},
					[2]string{"Size", countText(last.Blobs, last.Bytes) + ", of which " + countText(last.Copied, last.CopiedBytes) + " were new; database " + sizeText(last.Database.Size)},
					[2]string{"Blobs lost", humanize.Comma(last.Lost)})
			}
			return m.show(cmd, s, rows...)
		}),
	}
	commands := append([]*cobra.Command{status}, jobCommands(m, "backup", "Backup")...)
	for _, cmd := range commands {
		m.addFlags(cmd.Flags())
	}
	return commands
}

// backupRunText tells how far a run is.
func backupRunText(s admin.BackupStatus) string {
	p := s.Run
	if p == nil {
		return ""
	}
	text := "begun " + ageText(p.Began) + ": "
	if s.Node == "" {
		text = "broken off, " + text
	}
	if p.At.IsZero() {
		return text + "the database is being copied"
	}
	return text + countText(p.Done, p.DoneBytes) + " of " + countText(p.Blobs, p.Bytes) + ", " + countText(p.Copied, p.CopiedBytes) + " of these copied, " +
		humanize.Comma(p.Lost) + " lost"
}
