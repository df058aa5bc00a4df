package backup

import (
	"encoding/json"
	"time"

	"github.com/berthregistry/berth/internal/meta"
)

// Progress says how far a run is.
type Progress struct {
	Began       time.Time `json:"began"`
	At          time.Time `json:"at,omitzero"`  // the moment that the set will show; zero while the database is copied
	Blobs       int64     `json:"blobs"`        // that the registry has; 0 while that is not known
	Bytes       int64     `json:"bytes"`        // of these
	Done        int64     `json:"done"`         // blobs that the backup has
	DoneBytes   int64     `json:"done_bytes"`   // of these
	Copied      int64     `json:"copied"`       // blobs of these that were copied by this run
	CopiedBytes int64     `json:"copied_bytes"` // of these
	Lost        int64     `json:"lost"`         // blobs whose bytes the registry has lost
}

// State is what the row of the job knows of backups.
type State struct {
	// Run is the one under way, or the last one that came to no end, if it began after the last set.
	Run *Progress `json:"run,omitempty"`
	// Last is the last set that was made, if there is one.
	Last *Set `json:"last,omitempty"`
	// To is where that set is.
	To string `json:"to,omitempty"`
}

// StateOf returns what a job's row says.
func StateOf(j meta.Job) (State, error) {
	var s State
	if j.State == "" {
		return s, nil
	}
	err := json.Unmarshal([]byte(j.State), &s)
	return s, err
}

// Text returns the state as a job's row has it.
func (s State) Text() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // it has nothing that can fail
	}
	return string(b)
}
