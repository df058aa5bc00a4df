package server

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/berthregistry/berth/internal/journal"
	"github.com/berthregistry/berth/internal/meta"
)

const (
	// mergeEvery is the time between two looks for parts of the journal to merge.
	mergeEvery = time.Hour
	// journalLease is how long after its death a node keeps others from writing the journal.
	journalLease = 5 * time.Second
)

// beginJournal fails if the store has the journal of a registry that the database is not.
func beginJournal(ctx context.Context, cfg *Config, log *slog.Logger, j *journal.Journal) error {
	if cfg.ReadOnly {
		return nil
	}
	switch err := j.Begin(ctx); {
	case errors.Is(err, journal.ErrForeign):
		return err
	case err != nil && !errors.Is(err, meta.ErrLost): // else another node begins it
		log.Warn("whether the storage has a journal already cannot be found out yet", "error", err) // none begins before it is
	}
	return nil
}

// newJournal returns what writes the journal, and shows how it goes on.
func newJournal(cfg *Config, log *slog.Logger, m *Metrics, storage *Storage) *journal.Journal {
	j := journal.New(storage.DB, storage.Blobs, journal.Options{Log: log, Interval: cfg.Journal.Interval.D()})
	m.Gauge("berth_journal_lag_seconds", "How long the oldest change has waited that is not in the journal yet; 0 if all are.", func() float64 {
		lag, err := j.Lag(context.Background())
		if err != nil {
			return math.NaN()
		}
		return lag.Seconds()
	})
	m.CounterFunc("berth_journal_records_total", "Records that this node has written to the journal.",
		func() float64 { return float64(j.Stats().Records) })
	m.CounterFunc("berth_journal_failures_total", "Attempts of this node to write the journal that failed.",
		func() float64 { return float64(j.Stats().Failures) })
	return j
}
