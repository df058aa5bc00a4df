package report

import (
	"fmt"
	"strings"
)

// Table is a set of figures that has a place of its own in a page.
type Table struct {
	Name string // of its place
	Note string // a sentence below, or ""

	rows [][]string
}

// NewTable returns a table with a heading.
func NewTable(name string, head ...string) *Table {
	return &Table{Name: name, rows: [][]string{head}}
}

// Add adds a row; numbers get three digits that count.
func (t *Table) Add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		if f, ok := c.(float64); ok {
			c = figure(f)
		}
		row[i] = fmt.Sprint(c)
	}
	t.rows = append(t.rows, row)
}

// Markdown returns t as the part of a page.
func (t *Table) Markdown() string {
	var b strings.Builder
	markdown(&b, t.rows)
	if t.Note != "" {
		b.WriteString("\n" + t.Note + "\n")
	}
	return b.String()
}

// Update replaces what stands in the place of t in a file.
func (t *Table) Update(file string) error {
	return replace(file, "<!-- figures: "+t.Name+" -->", "<!-- end -->", t.Markdown())
}
