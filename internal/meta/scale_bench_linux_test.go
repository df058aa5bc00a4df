//go:build bench

package meta

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/berthregistry/berth/bench/report"
	"github.com/berthregistry/berth/test/service"
)

var (
	write   = flag.Bool("write", false, "replace the figures of docs/benchmarks.md")
	divided = flag.Int("part", 1, "the `number` that everything is divided by")
)

// TestRightsAtScale measures what a decision costs that no cache knows, with 100,000 users, 10,000 robots and 1,000,000 grants, beside a
// hundredth of them:
//
//	go test -tags bench -timeout 1h -v -run RightsAtScale ./internal/meta
//
// With -write, the figures of docs/benchmarks.md are replaced.
func TestRightsAtScale(t *testing.T) {
	const rounds, length = 5, time.Second
	full := fullRights.part(*divided)
	tab := report.NewTable("access-scale", "a decision", "statements", "reads at 1 %", "reads at 100 %", "µs at 1 %", "µs at 100 %", "ratio")
	for _, d := range []struct {
		name, reads string
		source      func() string
	}{
		{"SQLite", "pages", func() string { return "" }},
		{"PostgreSQL", "rows", func() string { return service.Postgres(t).URL }},
	} {
		dbs := map[string]rightsDB{"1 %": newRightsDB(t, d.source(), full.part(100)), "100 %": newRightsDB(t, d.source(), full)}
		for i, l := range lookups {
			took := new(report.Row) // µs
			for round := range rounds + 1 {
				for _, part := range []string{"1 %", "100 %"} {
					db, n, start := dbs[part], 0, time.Now()
					for time.Since(start) < length {
						if _, err := l.ask(t.Context(), db.DB, db.question(n)); err != nil {
							t.Fatal(err)
						}
						n++
					}
					if round > 0 {
						took.Add(part, time.Since(start).Seconds()*1e6/float64(n))
					}
				}
			}
			small, _ := took.Value("1 %")
			large, _ := took.Value("100 %")
			ratio, _ := took.Ratio("100 %", "1 %")
			const questions = 100
			tab.Add(fmt.Sprintf("%s: %s (reads are %s)", d.name, l.name, d.reads), 1,
				dbs["1 %"].reads(t, i, questions), dbs["100 %"].reads(t, i, questions), small, large, ratio)
		}
	}
	var err error
	tab.Note, err = report.Note(t.TempDir())
	must(t, err)
	t.Logf("\n%s", tab.Markdown())
	if *write && *divided == 1 {
		must(t, tab.Update("../../docs/benchmarks.md"))
	}
}
