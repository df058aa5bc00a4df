package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// Batch is how many lines of a plan one transaction carries out.
const Batch = 200

// Result says what was deleted.
type Result struct {
	Tags, Manifests, Bytes int64
	Stayed                 int64 // of the plan, because it has moved or is needed since
	More                   bool  // there was more than may be deleted at once
}

var errLimit = errors.New("as much as may be deleted at once")

// Run makes the plan of the whole registry and carries it out, at most limit lines of it. It may be ended at any point: the next run does the rest.
func Run(ctx context.Context, db *meta.DB, origin meta.Origin, limit int, now func() time.Time) (res Result, err error) {
	var repository oci.Repository
	var tags []meta.CascadeTag
	var manifests []oci.Digest
	flush := func() error {
		asked := int64(len(tags) + len(manifests))
		if asked == 0 {
			return nil
		}
		done, err := db.DeleteCascade(ctx, repository, tags, manifests, nil, origin, now())
		if _, frozen := errors.AsType[*policy.FrozenError](err); frozen { // since the plan was made
			done, err = new(meta.Cascade), nil
		}
		if err != nil {
			return fmt.Errorf("retention of %s: %w", repository, err)
		}
		res.Tags += int64(len(done.Tags))
		res.Manifests += int64(len(done.Manifests))
		res.Bytes += done.Bytes
		res.Stayed += asked - int64(len(done.Tags)+len(done.Manifests))
		tags, manifests = tags[:0], manifests[:0]
		return ctx.Err()
	}
	err = NewPlanner(db, now()).Plan(ctx, "", func(i Item) error {
		if i.Action != Drop {
			return nil
		}
		if i.Repository != repository || len(tags)+len(manifests) == Batch {
			if err := flush(); err != nil {
				return err
			}
			repository = i.Repository
		}
		if limit--; limit < 0 {
			res.More = true
			return errLimit
		}
		if i.Tag != "" {
			tags = append(tags, meta.CascadeTag{Tag: i.Tag, Digest: i.Digest})
		} else {
			manifests = append(manifests, i.Digest)
		}
		return nil
	})
	if errors.Is(err, errLimit) {
		err = nil
	}
	if err == nil {
		err = flush()
	}
	return res, err
}
