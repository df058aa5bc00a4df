package main

import (
	"bufio"
	"io"
	"strings"
	"unicode/utf8"
)

// tableBatch is how many rows are held back to find out how wide the columns are.
const tableBatch = 50

// table prints aligned columns of any count of rows with little memory: widths are those of
// the rows so far, so they only grow. It is used by one goroutine.
type table struct {
	out    *bufio.Writer
	indent string
	widths []int
	rows   [][]string
}

func newTable(out io.Writer, indent string, header ...string) *table {
	t := &table{out: bufio.NewWriter(out), indent: indent}
	t.rows = append(t.rows, header)
	return t
}

// row adds a row, and prints the rows held back if there are enough.
func (t *table) row(cells ...string) error {
	t.rows = append(t.rows, cells)
	if len(t.rows) > tableBatch {
		return t.flush()
	}
	return nil
}

// flush prints the rows held back.
func (t *table) flush() error {
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t.rows {
		t.out.WriteString(t.indent)
		for i, cell := range row {
			t.out.WriteString(cell)
			if i < len(row)-1 {
				t.out.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell)+3))
			}
		}
		t.out.WriteByte('\n')
	}
	t.rows = t.rows[:0]
	return t.out.Flush()
}
