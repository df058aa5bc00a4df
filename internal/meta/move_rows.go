package meta

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Table is a table whose rows a move takes as they are.
type Table struct {
	Name    string
	columns []string // those of the primary key first
	key     int      // how many of them are the key
	lowest  []any    // what is before every key
}

// MovedTables returns the tables that a move takes, each after those that it refers to. Upload sessions stay
// behind, and so does what is to be deleted.
func MovedTables() []Table {
	table := func(name, columns string, lowest ...any) Table {
		return Table{name, strings.Fields(columns), len(lowest), lowest}
	}
	return []Table{
		table("organization", "id name public creation created_at", 0),
		table("account", "id name robot organization_id source subject display_name mail password admin disabled networks expires_at created_at seen_at", 0),
		table("credential", "id account_id kind name hash actions repositories networks created_at expires_at used_at used_from", 0),
		table("team", "id organization_id name created_at", 0),
		table("team_member", "account_id team_id", 0, 0),
		table("team_group", "source name team_id", "", "", 0),
		table("account_group", "account_id source name", 0, "", ""),
		table("access_grant", "id organization_id account_id team_id repositories tags role actions created_at", 0),
		table("trust_rule", "id account_id credential_id issuer rule created_at", 0),
		table("signing_key", "kid private signs_from known_until", ""),
		table("audit", "id at account_id actor credential client action object detail allowed", 0),
		table("tag_protection", "id organization repositories tags created_at created_by", 0),
		table("retention_policy", "id organization repositories tags rules created_at created_by", 0),
		table("content_freeze", "organization message since created_by", ""),
		table("quota", "organization bytes deduplicated tags repositories warn", ""),
		table("repository", "id name created_at listed public", 0),
		table("blob", "id digest size storage_key created_at", 0),
		table("repository_blob", "repository_id blob_id unreferenced_since", 0, 0),
		table("manifest", "id repository_id digest media_type size artifact_type subject annotations created_at body", 0),
		table("manifest_blob", "manifest_id blob_id repository_id", 0, 0),
		table("manifest_missing_blob", "repository_id digest manifest_id", 0, "", 0),
		table("manifest_child", "manifest_id digest repository_id", 0, ""),
		table("trashed_manifest", "id repository_id digest media_type size artifact_type subject annotations created_at body deleted_at actor credential method pulled_at", 0),
		table("trashed_manifest_blob", "manifest_id blob_id repository_id", 0, 0),
		table("trashed_tag", "manifest_id name pulled_at", 0, ""),
		table("tag", "repository_id name manifest_id updated_at", 0, ""),
		table("tag_pull", "repository_id name pulled_at", 0, ""),
		table("manifest_use", "manifest_id pulled_at pushed_at released_at", 0),
		table("tag_log", "id repository_id repository tag old_digest new_digest at actor credential method", 0),
	}
}

// keyColumn is the place of storage_key in the table blob.
const keyColumn = 3

// hasID tells whether the database numbers the rows.
func (t Table) hasID() bool { return t.columns[0] == "id" }

// placeholders returns a list of n parameters from a number on.
func placeholders(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", from+i)
	}
	return b.String()
}

// insert returns a statement for n rows. With moved, the keys of blobs are those of moved objects.
func (t Table) insert(n int, moved bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES ", t.Name, strings.Join(t.columns, ", "))
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		from := 1 + i*len(t.columns)
		if t.Name == "blob" && moved {
			// Each parameter is used, and has a type, so that PostgreSQL can tell what it is.
			fmt.Fprintf(&b, "($%d, $%d, $%d, (SELECT storage_key FROM moved_object"+
				" WHERE blob_id = CAST($%d AS BIGINT) AND digest = CAST($%d AS TEXT) AND size = CAST($%d AS BIGINT) AND CAST($%d AS TEXT) <> ''), $%d)",
				from, from+1, from+2, from, from+1, from+2, from+keyColumn, from+4)
			continue
		}
		fmt.Fprintf(&b, "(%s)", placeholders(from, len(t.columns)))
	}
	return b.String()
}

// Rows is a page of a table, in the order of its primary key.
type Rows struct {
	Table Table
	rows  [][]any
}

// Len returns how many rows there are.
func (r *Rows) Len() int { return len(r.rows) }

const (
	rowsPage  = 1000    // rows that are read at a time
	bytesPage = 4 << 20 // of manifests; a single one may have more
	rowsOnce  = 50      // rows that one statement inserts
)

// TableRows returns a page of the rows after those of another page, or the first ones if that is nil. An empty
// page is the end.
func (db *DB) TableRows(ctx context.Context, t Table, after *Rows) (*Rows, error) {
	from := t.lowest
	if after != nil && after.Len() > 0 {
		from = after.rows[after.Len()-1][:t.key]
	}
	n, _, err := db.rowsThatFit(ctx, t, from)
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", t.Name, err)
	}
	page := &Rows{Table: t}
	key := strings.Join(t.columns[:t.key], ", ")
	err = db.query(ctx, func(scan func(...any) error) error {
		row := make([]any, len(t.columns))
		places := make([]any, len(row))
		for i := range row {
			places[i] = &row[i]
		}
		err := scan(places...)
		for i, v := range row {
			switch v := v.(type) {
			case int32: // PostgreSQL's INTEGER
				row[i] = int64(v)
			case string: // of an artifactType that was pushed before they were read so
				row[i] = asText(v)
			}
		}
		page.rows = append(page.rows, row)
		return err
	}, fmt.Sprintf(`SELECT %s FROM %s WHERE (%s) > (%s) ORDER BY %s LIMIT $%d`,
		strings.Join(t.columns, ", "), t.Name, key, placeholders(1, t.key), key, t.key+1), append(from[:t.key:t.key], n)...)
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", t.Name, err)
	}
	return page, nil
}

// rowsThatFit returns how many rows a page may have, so that manifests do not fill the memory. end tells that there were no more.
func (db *DB) rowsThatFit(ctx context.Context, t Table, from []any) (n int, end bool, err error) {
	if !slices.Contains(t.columns, "body") {
		return rowsPage, false, nil
	}
	bytes := int64(0)
	err = db.query(ctx, func(scan func(...any) error) error {
		var size int64
		if err := scan(&size); err != nil {
			return err
		}
		if bytes += size; bytes > bytesPage {
			return errEnough
		}
		n++
		return nil
	}, `SELECT size FROM `+t.Name+` WHERE id > $1 ORDER BY id LIMIT $2`, from[0], rowsPage)
	if errors.Is(err, errEnough) {
		return max(n, 1), false, nil
	}
	return max(n, 1), n < rowsPage, err
}

// AddRows inserts a page into the database that a move goes to. With moved, blobs get the keys of their
// moved objects; it fails if there is none with the same digest and size.
func (db *DB) AddRows(ctx context.Context, r *Rows, moved bool) error {
	many := r.Table.insert(rowsOnce, moved)
	one := r.Table.insert(1, moved)
	err := db.update(ctx, func(t *tx) error {
		rows := r.rows
		for ; len(rows) >= rowsOnce; rows = rows[rowsOnce:] {
			args := make([]any, 0, rowsOnce*len(r.Table.columns))
			for _, row := range rows[:rowsOnce] {
				args = append(args, row...)
			}
			if _, err := t.exec(many, args...); err != nil {
				return fmt.Errorf("rows %v to %v: %w", rows[0][:r.Table.key], rows[rowsOnce-1][:r.Table.key], err)
			}
		}
		for _, row := range rows {
			if _, err := t.exec(one, row...); err != nil {
				return fmt.Errorf("row %v: %w", row[:r.Table.key], err)
			}
		}
		return t.forgetChanges()
	})
	if err != nil {
		return fmt.Errorf("write table %s: %w", r.Table.Name, err)
	}
	return nil
}

// TableSum stands for the content of a table: two tables with the same sum hold the same rows. The keys of the blob
// store are left out.
type TableSum struct {
	Rows   int64
	Hashes [4]uint64 // of all rows, added up, so that their order makes no difference
}

// Add adds the rows of a page.
func (s *TableSum) Add(r *Rows) {
	var b []byte
	for _, row := range r.rows {
		b = b[:0]
		for i, v := range row {
			if r.Table.Name == "blob" && i == keyColumn {
				continue
			}
			b = appendValue(b, v)
		}
		sum := sha256.Sum256(b)
		for i := range s.Hashes {
			s.Hashes[i] += binary.BigEndian.Uint64(sum[8*i:])
		}
	}
	s.Rows += int64(len(r.rows))
}

// appendValue appends an encoding of a value that is not the beginning of any other's. Text and bytes
// are not told apart.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, 0)
	case int64:
		return binary.BigEndian.AppendUint64(append(b, 1), uint64(v))
	case string:
		return append(binary.BigEndian.AppendUint64(append(b, 2), uint64(len(v))), v...)
	case []byte:
		return append(binary.BigEndian.AppendUint64(append(b, 2), uint64(len(v))), v...)
	}
	return fmt.Appendf(append(b, 3), "%T %v", v, v) // no column has another type
}

// CountRows returns how many rows the tables of a move have.
func (db *DB) CountRows(ctx context.Context) (int64, error) {
	var sum int64
	for _, t := range MovedTables() {
		var n int64
		if err := db.queryRow(ctx, `SELECT COUNT(*) FROM `+t.Name).Scan(&n); err != nil {
			return 0, fmt.Errorf("count table %s: %w", t.Name, err)
		}
		sum += n
	}
	return sum, nil
}
