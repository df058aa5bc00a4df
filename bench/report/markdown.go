package report

import (
	"fmt"
	"os"
	"strings"
)

// Markers of the part of a page that figures are written to.
const (
	begin = "<!-- figures -->"
	end   = "<!-- /figures -->"
)

// Markdown returns r as the part of a page.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", r.where())
	markdown(&b, r.table())
	b.WriteString("\nWhere processor time went, in processors that were in use on average:\n\n")
	markdown(&b, r.costs())
	for _, m := range r.remarks() {
		fmt.Fprintf(&b, "\n%s\n\n", m.title)
		for _, l := range m.lines {
			b.WriteString("- " + strings.ReplaceAll(l, "\n", " ") + "\n")
		}
	}
	return b.String()
}

func markdown(b *strings.Builder, rows [][]string) {
	for i, row := range rows {
		b.WriteString("| " + strings.ReplaceAll(strings.Join(row, " | "), "\n", " ") + " |\n")
		if i == 0 {
			b.WriteString("| --- " + strings.Repeat("| ---: ", len(row)-1) + "|\n")
		}
	}
}

// Update replaces what stands between the markers in a file by the figures of r.
func (r *Report) Update(file string) error { return replace(file, begin, end, r.Markdown()) }

// replace puts text between the first begin in a file and the end that follows it.
func replace(file, begin, end, text string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for figures: %s and %s", file, begin, end)
	}
	return os.WriteFile(file, []byte(before+begin+"\n"+text+end+after), 0o644)
}
