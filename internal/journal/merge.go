package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
)

const (
	// smallPart is how many bytes a part has at most that is merged with others, and largePart what those have together.
	smallPart = 1 << 20
	largePart = 4 << 20
	// manyChanges is how many bytes of changes there are before another epoch may be due.
	manyChanges = 64 << 20
)

// Merge is the periodic job that keeps the journal small: it puts small parts together, deletes epochs that are of no use any more, and
// begins the next one when changes take more space than the checkpoint.
func (j *Journal) Merge(ctx context.Context) (result string, err error) {
	found, err := parts(ctx, j.store)
	if err != nil {
		return "", err
	}
	// After the parts: whatever of an earlier epoch was found then is of no use, since a later one is complete.
	s, raw, err := j.load(ctx)
	if err != nil || s.Epoch == 0 {
		return "", err
	}
	var changes []part
	var changed, checkpoint int64
	deleted := 0
	for _, p := range found {
		switch {
		case p.epoch < s.Epoch && s.Complete:
			if err := j.store.DeleteDocument(ctx, p.name); err != nil {
				return "", fmt.Errorf("delete an old part: %w", err)
			}
			deleted++
		case p.epoch != s.Epoch || p.complete:
		case p.checkpoint:
			checkpoint += p.size
		default:
			changed += p.size
			changes = append(changes, p)
		}
	}
	merged, into := 0, 0
	for _, group := range groups(changes) {
		n, err := j.merge(ctx, s.Epoch, group)
		if err != nil {
			return "", fmt.Errorf("merge: %w", err)
		}
		if n > 0 {
			merged, into = merged+n, into+1
		}
	}
	if s.Complete && changed > max(manyChanges, checkpoint) {
		// Export goes on with it.
		if _, err := j.save(ctx, raw, state{Epoch: s.Epoch + 1}); err != nil && !errors.Is(err, meta.ErrLost) {
			return "", err
		}
	}
	return fmt.Sprintf("%d parts merged into %d, %d deleted", merged, into, deleted), nil
}

// groups returns which parts to put together, each at least two.
func groups(changes []part) (found [][]part) {
	changes = slices.DeleteFunc(slices.Clone(changes), func(p part) bool { return p.size > smallPart })
	slices.SortFunc(changes, func(a, b part) int { return cmp.Or(cmp.Compare(a.last, b.last), cmp.Compare(a.name, b.name)) })
	var group []part
	var size int64
	flush := func() {
		if len(group) > 1 {
			found = append(found, group)
		}
		group, size = nil, 0
	}
	for _, p := range changes {
		if size+p.size > largePart {
			flush()
		}
		group, size = append(group, p), size+p.size
	}
	flush()
	return found
}

// thing is what a record tells of.
type thing struct {
	kind       meta.JournalKind
	repository int64
	ref        string
}

// merge writes what parts say into one, then deletes them, and returns how many they were. A crash in between leaves records
// twice. What cannot be read stays as it is, for whoever may mend it.
func (j *Journal) merge(ctx context.Context, epoch int64, group []part) (int, error) {
	newest := make(map[thing]meta.JournalRecord)
	var read []part
	for _, p := range group {
		data, err := j.store.Document(ctx, p.name)
		if errors.Is(err, blob.ErrNotFound) {
			continue // another node was faster
		}
		if err != nil {
			return 0, err
		}
		var records []meta.JournalRecord
		if err := decode(data, func(r meta.JournalRecord) error {
			records = append(records, r)
			return nil
		}); err != nil {
			j.opts.Log.Error("a part of the journal is damaged", "part", p.name, "error", err)
			continue
		}
		read = append(read, p)
		for _, r := range records {
			is := thing{r.Kind, r.RepositoryID, r.Ref}
			if old, ok := newest[is]; !ok || old.Change <= r.Change {
				newest[is] = r
			}
		}
	}
	if len(read) < 2 || len(newest) == 0 {
		return 0, nil
	}
	records := make([]meta.JournalRecord, 0, len(newest))
	for _, r := range newest {
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b meta.JournalRecord) int { return cmp.Compare(a.Change, b.Change) })
	data, err := encode(records)
	if err != nil {
		return 0, err
	}
	if err := j.store.PutDocument(ctx, changesName(epoch, records[len(records)-1].Change), data); err != nil {
		return 0, err
	}
	for _, p := range read {
		if err := j.store.DeleteDocument(ctx, p.name); err != nil {
			return 0, err
		}
	}
	return len(read), nil
}
