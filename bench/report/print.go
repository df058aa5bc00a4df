package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// figure prints a number with three digits that count.
func figure(v float64) string {
	abs := math.Abs(v)
	switch {
	case v == 0:
		return "0"
	case abs < 0.01:
		return fmt.Sprintf("%.4f", v)
	case abs < 1:
		return fmt.Sprintf("%.3f", v)
	case abs < 10:
		return fmt.Sprintf("%.2f", v)
	case abs < 100:
		return fmt.Sprintf("%.1f", v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// ratio prints a ratio and how far its rounds are apart.
func (r *Row) ratio(against string) string {
	ratio, ok := r.Ratio(Subject, against)
	if !ok {
		return "–"
	}
	if len(r.Samples[Subject]) == 1 {
		return figure(ratio.Median)
	}
	return ratio.String()
}

func (r *Row) value(server string) string {
	if r.Failed[server] != "" {
		return "failed"
	}
	v, ok := r.Value(server)
	if !ok {
		return "–"
	}
	return figure(v)
}

// peers returns the servers that have a column of their own, in order: those with a figure that is not a limit.
func (r *Report) peers() []string {
	found := make(map[string]bool)
	for _, row := range r.Rows {
		for server := range row.Samples {
			found[server] = found[server] || server != row.Limit
		}
		for server := range row.Failed {
			found[server] = found[server] || server != row.Limit
		}
	}
	maps.DeleteFunc(found, func(_ string, own bool) bool { return !own })
	names := slices.Sorted(maps.Keys(found))
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	return names
}

func rank(server string) int {
	switch server {
	case Subject:
		return 0
	case "registry":
		return 1
	}
	return 2
}

// table returns the figures as rows of cells, the heading first.
func (r *Report) table() [][]string {
	peers := r.peers()
	head := append([]string{"scenario", "unit"}, peers...)
	head = append(head, "limit", Subject+" / registry", Subject+" / limit", "goal", "met")
	out := [][]string{head}
	for _, row := range r.Rows {
		cells := []string{row.Title, row.Unit}
		for _, p := range peers {
			cells = append(cells, row.value(p))
		}
		limit := "–"
		if row.Limit != "" && row.value(row.Limit) != "–" {
			limit = row.value(row.Limit) + " (" + row.Limit + ")"
		}
		var goals []string
		for _, g := range row.Goals {
			goals = append(goals, g.String())
		}
		verdict, _ := row.Verdict()
		if r.Quick && verdict != Unknown {
			verdict = "(" + verdict + ")"
		}
		out = append(out, append(cells, limit, row.ratio("registry"), row.ratio(row.Limit), strings.Join(goals, ", "), string(verdict)))
	}
	return out
}

// costs returns where processor time went, as rows of cells.
func (r *Report) costs() [][]string {
	out := [][]string{{"scenario", "server", "its cores", "client's cores", "others' cores", "its µs per operation", "client's"}}
	for _, row := range r.Rows {
		names := slices.Sorted(maps.Keys(row.Cost))
		slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
		for _, name := range names {
			c := row.Cost[name]
			out = append(out, []string{row.Title, name, fmt.Sprintf("%.2f", c.Server), fmt.Sprintf("%.2f", c.Client), fmt.Sprintf("%.2f", max(0, c.Other)), figure(c.ServerPerOp), figure(c.ClientPerOp)})
		}
	}
	return out
}

// Failures lists what could not be measured, and goals that are missed.
func (r *Report) Failures() []string {
	var out []string
	for _, row := range r.Rows {
		for _, server := range slices.Sorted(maps.Keys(row.Failed)) {
			out = append(out, fmt.Sprintf("%s (%s): %s failed: %s", row.Title, row.Unit, server, row.Failed[server]))
		}
		if _, missed := row.Verdict(); missed != "" && !r.Quick {
			out = append(out, fmt.Sprintf("%s (%s): goal missed: %s", row.Title, row.Unit, missed))
		}
	}
	return out
}

// remark is a titled list that follows the tables.
type remark struct {
	title string
	lines []string
}

// remarks returns those that have something to say.
func (r *Report) remarks() []remark {
	all := []remark{
		{"Goals that were missed, and what failed:", r.Failures()},
		{"System calls of servers that send the big blob:", r.Notes},
		{"Something else was using the machine; run this again when it is quiet:", r.Disturbances()},
	}
	return slices.DeleteFunc(all, func(m remark) bool { return len(m.lines) == 0 })
}

// HasFailed tells whether some server could not be measured.
func (r *Report) HasFailed() bool {
	return slices.ContainsFunc(r.Rows, func(row *Row) bool { return len(row.Failed) > 0 })
}

// Text writes r for a terminal.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, r.where())
	if r.Quick {
		fmt.Fprintln(&b, "A quick run: sizes and times are reduced, verdicts on goals are in brackets.")
	}
	fmt.Fprintln(&b)
	text(&b, r.table())
	fmt.Fprintln(&b)
	text(&b, r.costs())
	for _, part := range r.remarks() {
		fmt.Fprintf(&b, "\n%s\n", part.title)
		for _, line := range part.lines {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// JSON writes r with all samples.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(r)
}

func (r *Report) where() string {
	var servers []string
	for _, name := range slices.Sorted(maps.Keys(r.Servers)) {
		servers = append(servers, strings.TrimSpace(name+" "+r.Servers[name]))
	}
	return fmt.Sprintf("Measured on %s: %s. %d rounds of %s.", r.Date.Format("2 January 2006"), r.Machine, r.Rounds, strings.Join(servers, ", "))
}

// text aligns cells: the first column to the left, the others to the right.
func text(b *strings.Builder, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				b.WriteString(cell + pad)
			} else {
				b.WriteString("  " + pad + cell)
			}
		}
		b.WriteByte('\n')
	}
}
