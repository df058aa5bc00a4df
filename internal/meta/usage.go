package meta

import "context"

// Usage is what an organization uses. Triggers keep it, so it is exact in every transaction, and asking costs no scan. What nothing needs
// any more counts until it is collected.
type Usage struct {
	Repositories int64 // that hold a manifest
	Tags         int64
	Bytes        int64 // of blobs, each once in every repository that has it, and of manifests, those in the trash, too
	Deduplicated int64 // of blobs, each once, and of manifests, each once in every repository
}

const (
	usageColumns = `CAST(COALESCE(SUM(u.repositories), 0) AS BIGINT), CAST(COALESCE(SUM(u.tags), 0) AS BIGINT),
		CAST(COALESCE(SUM(u.bytes), 0) AS BIGINT), CAST(COALESCE(SUM(u.deduplicated), 0) AS BIGINT)`
	usageText = `SELECT ` + usageColumns + ` FROM organization_usage u WHERE u.organization = $1`
)

func (u *Usage) dest() []any { return []any{&u.Repositories, &u.Tags, &u.Bytes, &u.Deduplicated} }

// Usage returns what an organization uses; nothing if it has no repository.
func (db *DB) Usage(ctx context.Context, organization string) (Usage, error) {
	var u Usage
	err := db.queryRow(ctx, usageText, asText(organization)).Scan(u.dest()...)
	return u, err
}

// usage is DB.Usage as the transaction sees it.
func (t *tx) usage(organization string) (Usage, error) {
	var u Usage
	err := t.queryRow(usageText, organization).Scan(u.dest()...)
	return u, err
}

// OrganizationUsage is the usage of an organization.
type OrganizationUsage struct {
	Organization string
	Usage
}

// Usages returns what up to n organizations after the given name use, in ASCII order. Those that use nothing are left out.
func (db *DB) Usages(ctx context.Context, after string, n int) ([]OrganizationUsage, error) {
	var all []OrganizationUsage
	err := db.query(ctx, func(scan func(...any) error) error {
		var o OrganizationUsage
		err := scan(append([]any{&o.Organization}, o.dest()...)...)
		all = append(all, o)
		return err
	}, `SELECT u.organization, `+usageColumns+` FROM organization_usage u WHERE u.organization > $1
		GROUP BY u.organization HAVING SUM(u.repositories) <> 0 OR SUM(u.tags) <> 0 OR SUM(u.bytes) <> 0 OR SUM(u.deduplicated) <> 0
		ORDER BY u.organization LIMIT $2`, asName(after), n)
	return all, err
}
