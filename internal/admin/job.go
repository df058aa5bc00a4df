package admin

import (
	"errors"
	"strconv"
	"time"

	"github.com/berthregistry/berth/internal/backup"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/retention"
	"github.com/berthregistry/berth/internal/scrub"
)

// jobRoutes are those of periodic work that people look at, ask for and pause.
var jobRoutes = []route{
	{"GET", "collection", rightRegistry, "", (*Handler).showCollection},
	{"POST", "collection/run", rightRegistry, "collection.run", asks(gc.Job)},
	{"POST", "collection/pause", rightRegistry, "collection.pause", pauses(gc.Job)},
	{"POST", "collection/resume", rightRegistry, "collection.resume", resumes(gc.Job)},

	{"GET", "scrub", rightRegistry, "", (*Handler).showScrub},
	{"GET", "scrub/damaged", rightRegistry, "", (*Handler).listDamaged},
	{"POST", "scrub/run", rightRegistry, "scrub.run", asks(scrub.Job)},
	{"POST", "scrub/pause", rightRegistry, "scrub.pause", pauses(scrub.Job)},
	{"POST", "scrub/resume", rightRegistry, "scrub.resume", resumes(scrub.Job)},

	{"GET", "backup", rightRegistry, "", (*Handler).showBackup},
	{"POST", "backup/run", rightRegistry, "backup.run", (*Handler).askBackup},
	{"POST", "backup/pause", rightRegistry, "backup.pause", pauses(meta.BackupJob)},
	{"POST", "backup/resume", rightRegistry, "backup.resume", resumes(meta.BackupJob)},
	{"GET", "retention/status", rightRegistry, "", (*Handler).showRetention},
	{"POST", "retention/run", rightRegistry, "retention.run", asks(retention.Job)},
	{"POST", "retention/pause", rightRegistry, "retention.pause", pauses(retention.Job)},
	{"POST", "retention/resume", rightRegistry, "retention.resume", resumes(retention.Job)},
}

// JobStatus is what is known of periodic work, on whichever node it runs.
type JobStatus struct {
	Node        string  `json:"node,omitempty"` // that is at it
	Since       Expiry  `json:"since"`          // when that run began
	Asked       bool    `json:"asked"`          // somebody asked for a run that has not ended
	Paused      Expiry  `json:"paused"`         // since when
	PausedBy    string  `json:"paused_by,omitempty"`
	LastEnded   Expiry  `json:"last_ended"`
	LastSeconds float64 `json:"last_seconds"`
	LastResult  string  `json:"last_result,omitempty"`
	LastError   string  `json:"last_error,omitempty"`
}

// CollectionStatus is how far the collection is.
type CollectionStatus struct {
	JobStatus
	gc.State
}

// ScrubStatus is how far the scrub is, and what is known to be damaged.
type ScrubStatus struct {
	JobStatus
	scrub.State
	Damaged map[meta.Damage]int64 `json:"damaged"`
	// VerifiedSince is a time since when all that is stored was read, or written.
	VerifiedSince Expiry `json:"verified_since"`
}

// BackupStatus is how far backups are.
type BackupStatus struct {
	JobStatus
	backup.State
	// Configured is where the servers keep backups; empty if they make none by themselves.
	Configured string `json:"configured,omitempty"`
}

// status returns a job's row, and that as an answer has it.
func (h *Handler) status(c *call, name string) (meta.Job, JobStatus, error) {
	j, err := h.opts.DB.Job(c.Context(), name)
	if errors.Is(err, meta.ErrNotFound) {
		return j, JobStatus{}, nil // no server has served this registry yet
	}
	s := JobStatus{Node: j.Holder, Since: Expiry{j.Began}, Asked: j.Asked, Paused: Expiry{j.Paused}, PausedBy: j.By, LastResult: j.Result, LastError: j.Error}
	if j.Took >= 0 {
		s.LastEnded, s.LastSeconds = Expiry{j.Ended}, j.Took.Seconds()
	}
	return j, s, err
}

func (h *Handler) showCollection(c *call) (any, error) {
	j, s, err := h.status(c, gc.Job)
	if err != nil {
		return nil, err
	}
	state, err := gc.StateOf(j)
	return CollectionStatus{s, state}, err
}

func (h *Handler) showScrub(c *call) (any, error) {
	j, s, err := h.status(c, scrub.Job)
	if err != nil {
		return nil, err
	}
	state, err := scrub.StateOf(j)
	if err != nil {
		return nil, err
	}
	damaged, err := h.opts.DB.CountDamaged(c.Context())
	if err != nil {
		return nil, err
	}
	since, err := h.opts.DB.AllVerifiedSince(c.Context())
	return ScrubStatus{s, state, damaged, Expiry{since}}, err
}

func (h *Handler) showBackup(c *call) (any, error) {
	j, s, err := h.status(c, meta.BackupJob)
	if err != nil {
		return nil, err
	}
	state, err := backup.StateOf(j)
	return BackupStatus{s, state, h.opts.Backups}, err
}

func (h *Handler) askBackup(c *call) (any, error) {
	if h.opts.Backups == "" {
		return nil, errConflict("the registry has no place for backups: set backup.to in the configuration of its servers, or BERTH_BACKUP_TO, and start them again")
	}
	return asks(meta.BackupJob)(h, c)
}

// DamagedBlob is a blob whose stored bytes are not what they should be.
type DamagedBlob struct {
	ID     int64       `json:"id"`
	Digest oci.Digest  `json:"digest"`
	Size   int64       `json:"size"`
	Damage meta.Damage `json:"damage"`
	Detail string      `json:"detail"`
	Found  time.Time   `json:"found"`
	Object string      `json:"object"` // as the storage knows it
	// Repositories are some that have it.
	Repositories []oci.Repository `json:"repositories"`
}

// MaxHolders is how many repositories a DamagedBlob names at most.
const MaxHolders = 10

func (h *Handler) listDamaged(c *call) (any, error) {
	var failed error
	p, err := page(c, func(after string, n int) ([]meta.DamagedBlob, error) {
		id, err := afterID(after)
		if err != nil {
			return nil, err
		}
		return h.opts.DB.DamagedBlobs(c.Context(), id, n)
	}, func(b meta.DamagedBlob) string { return strconv.FormatInt(b.ID, 10) }, func(b meta.DamagedBlob) DamagedBlob {
		repositories, err := h.opts.DB.Holders(c.Context(), b.ID, MaxHolders)
		failed = errors.Join(failed, err)
		return DamagedBlob{b.ID, b.Digest, b.Size, b.Damage, b.Detail, b.Found.UTC(), b.Key, repositories}
	})
	return p, errors.Join(err, failed)
}

// asks returns what asks for a run of a job. It begins within seconds, where a server serves the registry.
func asks(name string) func(*Handler, *call) (any, error) {
	return func(h *Handler, c *call) (any, error) {
		j, err := h.opts.DB.Job(c.Context(), name)
		if err == nil && !j.Paused.IsZero() {
			return nil, errConflict("it is paused: resume it first")
		}
		return nil, h.changes(c).AskJob(c.Context(), name)
	}
}

// pauses returns what pauses a job. A run under way ends within seconds.
func pauses(name string) func(*Handler, *call) (any, error) {
	return func(h *Handler, c *call) (any, error) {
		return nil, h.changes(c).PauseJob(c.Context(), name, h.by(c))
	}
}

func resumes(name string) func(*Handler, *call) (any, error) {
	return func(h *Handler, c *call) (any, error) {
		return nil, h.changes(c).ResumeJob(c.Context(), name)
	}
}
