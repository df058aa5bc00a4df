package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/harness"
)

// A server carries out policies by itself, never more than the limit at a time, with an entry in the audit log for all that goes.
func TestScheduledRetention(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := harness.StartServer(harness.Binary(t), dir, harness.Settings{Env: []string{"BERTH_RETENTION_INTERVAL=0s"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Kill() }()
	a := harness.NewAPI(t, s)
	const images, limit = 12, 7
	for i := range images {
		image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, harness.Random(50)))
		a.PushImage("team/app", fmt.Sprint("v", i), image)
	}
	a.Expect(http.StatusCreated, "POST", "/api/v1/organizations/team/retention", harness.JSON(map[string]any{"rules": map[string]any{"newest": 2}}),
		harness.Header{"Content-Type": "application/json"})
	if got := len(a.Tags("team/app")); got != images {
		t.Fatalf("%d tags", got)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}

	settings, metric := metricsOf(t, harness.Settings{Env: []string{"BERTH_AUTH_ENABLED=true", "BERTH_RETENTION_INTERVAL=1s", fmt.Sprint("BERTH_RETENTION_LIMIT=", limit)}})
	if s, err = harness.StartServer(harness.Binary(t), dir, settings); err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); metric(s, "berth_retention_manifests_total") != fmt.Sprint(images-2); time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > 10*patience {
			t.Fatalf("the server deletes nothing; its log ends with\n%s", s.LogTail())
		}
	}
	if got := metric(s, "berth_retention_tags_total"); got != fmt.Sprint(images-2) {
		t.Errorf("%s tags are counted", got)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	runs := regexp.MustCompile(`msg=retention tags=(\d+) manifests=(\d+) `).FindAllStringSubmatch(s.Log(), -1)
	for _, run := range runs {
		tags, _ := strconv.Atoi(run[1])
		if manifests, _ := strconv.Atoi(run[2]); tags+manifests > limit {
			t.Errorf("%s, with a limit of %d", run[0], limit)
		}
	}
	if len(runs) < 2*(images-2)/limit {
		t.Errorf("%d runs did it all", len(runs))
	}

	db, err := meta.OpenReadOnly(t.Context(), filepath.Join(dir, "data", "berth.db"), meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if tags, err := db.Tags(t.Context(), "team/app", "", 100); err != nil || strings.Join(tags, " ") != "v10 v11" {
		t.Errorf("tags are left: %q, %v", tags, err)
	}
	entries, _, err := db.Audit(t.Context(), meta.AuditFilter{Actor: "retention"}, meta.AuditPlace{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2*(images-2) {
		t.Errorf("%d entries are in the audit log: %+v", len(entries), entries)
	}
}
