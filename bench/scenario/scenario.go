//go:build linux

// Package scenario holds what the benchmark measures, and runs it.
package scenario

import (
	"context"
	"fmt"
	"time"

	"github.com/berthregistry/berth/bench/content"
	"github.com/berthregistry/berth/bench/peer"
	"github.com/berthregistry/berth/bench/report"
)

// Plan says how much of everything.
type Plan struct {
	content.Sizes
	Quick    bool
	Rounds   int           // that count; one more comes first, to warm up, unless Quick
	Duration time.Duration // of a run of what is measured for some time
	Storms   int           // in one run
	Pulls    int           // of the big blob, by each client, in one run
	Watch    time.Duration // after a restart
}

// Full returns the plan that goals are held against.
func Full() Plan {
	return Plan{
		Sizes: content.Sizes{
			Big: 1024 * mib, Batch: 64, BatchSize: 32 * mib,
			Tags: 10_000, NewTags: 1000, Repositories: 5000, Images: 8000,
		},
		Rounds: 5, Duration: 3 * time.Second, Storms: 3, Pulls: 3, Watch: 5 * time.Second,
	}
}

// Quick returns a plan for work on the benchmark, or on one scenario.
func Quick() Plan {
	return Plan{
		Sizes: content.Sizes{
			Big: 256 * mib, Batch: 16, BatchSize: 32 * mib,
			Tags: 1000, NewTags: 200, Repositories: 500, Images: 2000,
		},
		Quick: true, Rounds: 2, Duration: 700 * time.Millisecond, Storms: 1, Pulls: 1, Watch: 2 * time.Second,
	}
}

// runner runs a scenario once.
type runner func(ctx context.Context, e *env) (result, error)

// scenario is one kind of load.
type scenario struct {
	name    string
	limit   string // the peer that shows what the machine allows, or ""
	run     runner
	metrics []metric // the first is the main one
}

// metric is one figure that a scenario finds.
type metric struct {
	key   string // in result.figures
	title string
	unit  string
	goals []report.Goal
}

// Names lists the scenarios.
func Names() []string {
	var names []string
	for _, s := range scenarios(Full()) {
		names = append(names, s.name)
	}
	return names
}

// scenarios returns all of them, in the order in which they run: those that need little content first,
// those that add to it last.
func scenarios(p Plan) []scenario {
	// main returns the metric of a scenario that has one.
	main := func(title, unit string, goals ...report.Goal) []metric {
		return []metric{{"rate", title, unit, goals}}
	}
	over := func(factor float64) report.Goal { return report.AtLeast(factor, peer.Distribution) }
	ofLimit := func(factor float64) report.Goal { return report.AtLeast(factor, report.AgainstLimit) }
	overLimit := func(factor float64) report.Goal { return report.AtMost(factor, report.AgainstLimit) }
	atMost := func(bound float64) report.Goal { return report.AtMost(bound, "") }
	bytes := func(n int64) string {
		if n%(1024*mib) == 0 {
			return fmt.Sprintf("%d GiB", n/(1024*mib))
		}
		return fmt.Sprintf("%d MiB", n/mib)
	}
	big := bytes(p.Big)
	batch := fmt.Sprintf("%d blobs of %s pushed by 8", p.Batch, bytes(p.BatchSize))
	inMany := fmt.Sprintf("in a repository of %d tags", p.Tags)
	catalog := p.Repositories
	if p.Large > 0 {
		catalog = p.Large
	}
	return []scenario{
		{"push-small", peer.Limit, pushSmall,
			main("small images pushed by 16", "images/s", over(8), ofLimit(0.7))},
		{"push-big", peer.Limit, pushBig, []metric{
			{"rate", "blob of " + big + " pushed by one PUT", "MiB/s", []report.Goal{ofLimit(0.95)}},
			{"cpu", "– its server's processor time", "s", []report.Goal{overLimit(1.3)}},
		}},
		{"push-big-streamed", peer.Limit, streamBig, []metric{
			{"rate", "blob of " + big + " pushed by a streamed PATCH", "MiB/s", nil},
			{"cpu", "– its server's processor time", "s", nil},
		}},
		{"push-batch", peer.Limit, pushBatch,
			main(batch, "MiB/s", ofLimit(0.95))},
		{"pull-big-1", peer.Nginx, pullBig(1),
			main("blob of "+big+" pulled by 1", "MiB/s", ofLimit(0.97))},
		{"pull-big-8", peer.Nginx, pullBig(8),
			main("blob of "+big+" pulled by 8", "MiB/s", ofLimit(0.97))},
		{"blob-get", peer.Nginx, readBlobs("GET"),
			main("blobs of 64 KiB read by 64", "requests/s", over(25), ofLimit(0.75))},
		{"blob-head", peer.Nginx, readBlobs("HEAD"),
			main("blob HEAD by 64", "requests/s", over(4))},
		{"manifest-get", peer.Nginx, readManifests("GET", (*content.Set).Small),
			main("manifest GET by tag, by 64", "requests/s", over(4))},
		{"manifest-head", peer.Nginx, readManifests("HEAD", (*content.Set).Small),
			main("manifest HEAD by tag, by 64", "requests/s", over(4))},
		{"manifest-get-many", peer.Nginx, readManifests("GET", (*content.Set).ManyTags),
			main("manifest GET "+inMany, "requests/s", over(4))},
		{"manifest-head-many", peer.Nginx, readManifests("HEAD", (*content.Set).ManyTags),
			main("manifest HEAD "+inMany, "requests/s", over(4))},
		{"storm", peer.Nginx, storm, []metric{
			{"rate", "image of 20 MiB pulled by 200 at once", "pulls/s", []report.Goal{ofLimit(0.97)}},
			{"p50", "– time of a pull, median", "ms", nil},
			{"p99", "– time of a pull, 99th percentile", "ms", []report.Goal{overLimit(1.03)}}, // 1/0.97
			{"memory", "– peak of the server's memory", "MiB", []report.Goal{atMost(64)}},
		}},
		{"mount", "", mount,
			main("cross-repository mounts by 16", "mounts/s", over(2))},
		{"list-tags", "", listTags, []metric{
			{"whole", fmt.Sprintf("list of %d tags, whole", p.Tags), "ms", []report.Goal{atMost(3)}},
			{"page", "– a page of 100", "ms", []report.Goal{atMost(0.5)}},
		}},
		{"catalog", "", listRepositories, []metric{
			{"whole", fmt.Sprintf("catalog of %d repositories, whole", p.Repositories), "ms", []report.Goal{atMost(5)}},
			{"pages", "– every page of 100", "ms", []report.Goal{atMost(25)}},
		}},
		{"first-pages", "", firstPages, []metric{
			{"tags", fmt.Sprintf("first page of %d tags, to that of 100", p.Tags), "ratio", []report.Goal{atMost(1.5)}},
			{"repositories", fmt.Sprintf("first page of %d repositories, to that of 100", catalog), "ratio", []report.Goal{atMost(1.5)}},
		}},
		{"new-tags", "", newTags,
			main("new tags "+inMany+", by 16", "tags/s", over(5))},
		{"restart", "", restart, []metric{
			{"first", "restart with that content: first answer", "ms", []report.Goal{atMost(25)}},
			{"cpu", fmt.Sprintf("– processor time in the first %g s", p.Watch.Seconds()), "s", []report.Goal{atMost(0.02)}},
		}},
	}
}
