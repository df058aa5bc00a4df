package move_test

import (
	"errors"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/move"
	"github.com/berthregistry/berth/test/service"
)

// A bucket that cannot be reached stops the move, whichever end it is of. It makes no blob a damaged one, and the move goes
// on when it is back.
func TestBucketIsAway(t *testing.T) {
	t.Parallel()
	server := service.NewS3(t)
	bucket := server.Bucket(t)
	store, err := s3.Open(t.Context(), s3.Options{
		Bucket: bucket.Name, Endpoint: bucket.Endpoint, Region: bucket.Region, AccessKeyID: bucket.AccessKey, SecretAccessKey: bucket.SecretKey,
		Stall: time.Second, Patience: time.Second,
	})
	must(t, err)
	one, two := folder(t), folder(t)
	source := move.End{DB: folder(t).end(t, false).DB, Blobs: store}
	w := serve(t, source)
	w.fill()

	interrupted := func(from, to move.End) {
		t.Helper()
		opts := options(t, from, to)
		stopped := false
		opts.Progress = &tally{add: func(move.Step, int64) {
			if !stopped {
				stopped = true
				server.Stop()
			}
		}}
		if _, err := move.Copy(t.Context(), opts); !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("without the bucket: %v", err)
		}
		server.Start(t)
		report, err := move.Copy(t.Context(), options(t, from, to))
		must(t, err)
		if report.Copied < 50 {
			t.Errorf("the report is %+v", report)
		}
		switched(t, options(t, from, to))
		wantSame(t, from, to)
	}
	target := one.end(t, false)
	interrupted(source, target)

	bucket = server.Bucket(t)
	store, err = s3.Open(t.Context(), s3.Options{
		Bucket: bucket.Name, Endpoint: bucket.Endpoint, Region: bucket.Region, AccessKeyID: bucket.AccessKey, SecretAccessKey: bucket.SecretKey,
		Stall: time.Second, Patience: time.Second,
	})
	must(t, err)
	interrupted(target, move.End{DB: two.end(t, false).DB, Blobs: store})
}

// PostgreSQL that restarts, at either end, may cost the switch but nothing else.
func TestPostgresRestarts(t *testing.T) {
	t.Parallel()
	cluster := service.NewPostgres(t)
	open := func() *meta.DB {
		db, err := meta.Open(t.Context(), cluster.Database(t).URL, meta.Options{})
		must(t, err)
		t.Cleanup(func() { db.Close() })
		return db
	}
	first := serve(t, folder(t).end(t, false))
	first.fill()
	second := move.End{DB: open(), Blobs: folder(t).end(t, false).Blobs}
	third := folder(t).end(t, false)
	for _, ends := range [][2]move.End{{first.End, second}, {second, third}} {
		for _, step := range []move.Step{move.Rows, move.Verify, move.Blobs} {
			opts := options(t, ends[0], ends[1])
			restarted := false
			opts.Progress = &tally{add: func(s move.Step, _ int64) {
				if s == step && !restarted {
					restarted = true
					cluster.Restart(t, "immediate")
				}
			}}
			done, err := move.Switch(t.Context(), opts)
			if err == nil { // what was lost before the lock was taken is done again
				if step != move.Blobs {
					t.Errorf("the lock was lost at step %d, but the switch has ended well", step)
				}
				done.Release()
				break
			}
			if !errors.Is(err, meta.ErrUnavailable) && !errors.Is(err, meta.ErrThawed) {
				t.Errorf("the error is %v", err)
			}
		}
		if ends[1].DB.CheckComplete(t.Context()) != nil {
			switched(t, options(t, ends[0], ends[1]))
		}
		wantSame(t, ends[0], ends[1])
		wantClean(t, ends[1])
	}
}
