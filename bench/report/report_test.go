package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRatioIsTakenRoundByRound(t *testing.T) {
	r := &Row{Limit: "limit"}
	// The machine slows down: figures move, ratios do not.
	for i, v := range []float64{100, 50, 10} {
		r.Add("berth", 8*v)
		r.Add("registry", v)
		r.Add("limit", []float64{16, 10, 8}[i]*v)
	}
	if got, ok := r.Ratio("berth", "registry"); !ok || got != (Ratio{8, 8, 8}) {
		t.Errorf("ratio to registry: %v", got)
	}
	if got, ok := r.Ratio("berth", "limit"); !ok || got != (Ratio{0.8, 0.5, 1}) {
		t.Errorf("ratio to limit: %v", got)
	}
	if _, ok := r.Ratio("berth", "zot"); ok {
		t.Error("there is a ratio to a server without figures")
	}
}

func TestVerdicts(t *testing.T) {
	row := func(goals ...Goal) *Row {
		r := &Row{Limit: "nginx", Goals: goals}
		r.Add("berth", 4)
		r.Add("registry", 1)
		r.Add("nginx", 5)
		return r
	}
	for _, c := range []struct {
		row  *Row
		want Verdict
	}{
		{row(), Unknown},
		{row(AtLeast(4, "registry")), Met},
		{row(AtLeast(4.1, "registry")), Missed},
		{row(AtLeast(4, "registry"), AtLeast(0.9, AgainstLimit)), Missed},
		{row(AtLeast(0.8, AgainstLimit)), Met},
		{row(AtMost(0.7, AgainstLimit)), Missed},
		{row(AtMost(4, "")), Met},
		{row(AtMost(3.9, "")), Missed},
		{row(AtLeast(2, "olareg")), Unknown},
	} {
		if got, missed := c.row.Verdict(); got != c.want || (got == Missed) != (missed != "") {
			t.Errorf("%v: %s (%s), want %s", c.row.Goals, got, missed, c.want)
		}
	}
	failed := row(AtMost(4, ""))
	failed.Fail("berth", errors.New("it broke"))
	if got, _ := failed.Verdict(); got != Missed {
		t.Errorf("a failure is %s", got)
	}
}

func TestQuantile(t *testing.T) {
	s := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.75: 4, 0.875: 4.5, 1: 5} {
		if got := Quantile(s, q); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	if s[0] != 5 {
		t.Error("the samples were sorted in place")
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.00123: "0.0012", 0.1234: "0.123", 1.234: "1.23", 12.34: "12.3", 123.4: "123",
		1234: "1,234", 1234567: "1,234,567", -1234: "-1,234", -123: "-123",
	} {
		if got := figure(v); got != want {
			t.Errorf("%g is printed as %s, want %s", v, got, want)
		}
	}
}

func sample() *Report {
	row := &Row{Scenario: "mount", Title: "mounts", Unit: "mounts/s", Limit: "nginx", Goals: []Goal{AtLeast(2, "registry")}}
	row.Add("berth", 30)
	row.Add("registry", 20)
	row.Add("nginx", 60)
	row.Cost = map[string]Cost{"berth": {Server: 1, Client: 0.5, Other: 0.9, ServerPerOp: 12, ClientPerOp: 6}}
	return &Report{Rounds: 1, Servers: map[string]string{"berth": "x", "registry": "v3", "nginx": "1"}, Rows: []*Row{row}}
}

func TestUpdateReplacesTheFiguresOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(file, []byte("before\n"+begin+"\nold\n"+end+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := sample().Update(file); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := string(page)
	if !strings.HasPrefix(got, "before\n"+begin+"\n") || !strings.HasSuffix(got, end+"\nafter\n") || strings.Contains(got, "old") {
		t.Errorf("the page is now\n%s", got)
	}
	for _, want := range []string{
		"| mounts | mounts/s | 30.0 | 20.0 | 60.0 (nginx) | 1.50 | 0.500 | ≥ 2 × registry | no |",
		"goal missed: ≥ 2 × registry, is 1.50",
		"others used 0.9 processors",
	} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q stands on the page %d times:\n%s", want, strings.Count(got, want), got)
		}
	}
	if err := os.WriteFile(file, []byte("no markers"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := sample().Update(file); err == nil {
		t.Error("a page without markers was updated")
	}
}

func TestTable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	page := "a\n<!-- figures: one -->\nold\n<!-- end -->\nb\n<!-- figures: two -->\nkept\n<!-- end -->\n"
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	tab := NewTable("one", "what", "value", "ratio")
	tab.Note = "Here."
	tab.Add("first", 1234.5, Ratio{0.5, 0.25, 1})
	if err := tab.Update(file); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(page, "old\n", "| what | value | ratio |\n| --- | ---: | ---: |\n| first | 1,234 | 0.500 (0.250–1.00) |\n\nHere.\n", 1)
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%v, the page is\n%s\ninstead of\n%s", err, got, want)
	}
	if err := NewTable("three", "what").Update(file); err == nil {
		t.Error("there is no place for it, and no error")
	}
}

func TestJSONHoldsSamplesAndConclusions(t *testing.T) {
	var b bytes.Buffer
	if err := sample().JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Rows []struct {
			Scenario string
			Samples  map[string][]float64
			Medians  map[string]float64
			Ratios   map[string]Ratio
			Met      string
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	row := got.Rows[0]
	if row.Scenario != "mount" || row.Samples["nginx"][0] != 60 || row.Medians["berth"] != 30 || row.Ratios["registry"].Median != 1.5 || row.Met != "no" {
		t.Errorf("JSON: %s", &b)
	}
}
