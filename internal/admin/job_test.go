package admin

import (
	"net/http"
	"testing"

	"github.com/berthregistry/berth/internal/backup"
	"github.com/berthregistry/berth/internal/meta"
)

// A backup is asked for only where it has a place; its status is what the job has noted.
func TestBackupJob(t *testing.T) {
	w := newWorld(t)
	state := backup.State{Run: &backup.Progress{Blobs: 5, Done: 3}, Last: &backup.Set{Name: "last", Lost: 2}, To: "/mnt/backup"}
	if err := w.db.SetJobState(t.Context(), meta.BackupJob, "", state.Text()); err != nil {
		t.Fatal(err)
	}
	_, root := w.administrator("root")
	var s BackupStatus
	w.want(http.StatusOK, root, "GET", "backup", "", &s)
	if s.Configured != "/mnt/backup" || s.To != "/mnt/backup" || s.Run.Done != 3 || s.Last.Name != "last" || s.Last.Lost != 2 || s.Asked {
		t.Errorf("the status is %+v", s)
	}
	w.h.opts.Backups = ""
	w.want(http.StatusConflict, root, "POST", "backup/run", "{}", nil)
	w.want(http.StatusOK, root, "GET", "backup", "", &s)
	if s.Asked {
		t.Error("a run was asked for that has no place")
	}
}
