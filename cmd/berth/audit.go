package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/audit"
	"github.com/berthregistry/berth/internal/upstream"
)

// auditFilter says which entries of the audit log are looked for.
type auditFilter struct {
	actor, object, prefix, action, since, until string
	denied                                      bool
}

func (f *auditFilter) query() (url.Values, error) {
	q := make(url.Values)
	for name, text := range map[string]string{"actor": f.actor, "object": f.object, "prefix": f.prefix, "action": f.action} {
		if text != "" {
			q.Set(name, text)
		}
	}
	for name, text := range map[string]string{"since": f.since, "until": f.until} {
		if text == "" {
			continue
		}
		at, err := parsePast(text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", name, err)
		}
		q.Set(name, at.UTC().Format(time.RFC3339))
	}
	if f.denied {
		q.Set("allowed", "false")
	}
	return q, nil
}

// parsePast reads a time, a day, or how long ago something was.
func parsePast(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	if d, err := parseDuration(s); err == nil && d > 0 {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time: write 24h or 7d for so long ago, 2026-12-31 or 2026-12-31T12:00:00Z", s)
}

func newAuditCommand() *cobra.Command {
	m := new(management)
	var f auditFilter
	var limit int
	var export bool
	cmd := &cobra.Command{
		Use: "audit", Short: "Show who has changed what, or was not allowed to",
		Long: `Show who has changed what, or was not allowed to, the newest first. --export prints all entries as JSON, one on each line, the oldest
first.` + managementHelp,
		Example: `  berth audit --since 24h --denied
  berth audit --prefix organizations/team/ --limit 20
  berth audit --export --since 2026-11-01 --until 2026-12-01 >november.jsonl`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			query, err := f.query()
			switch {
			case err != nil:
				return usagef(cmd, "%w", err)
			case limit < 1:
				return usagef(cmd, "--limit must be at least 1")
			case export:
				return m.download(cmd, "audit/export?"+query.Encode())
			}
			return m.printAudit(cmd, query, limit)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.actor, "actor", "", "only what the account of this `NAME` did")
	flags.StringVar(&f.object, "object", "", "only what was done to this `OBJECT`, such as team/app or users/alice")
	flags.StringVar(&f.prefix, "prefix", "", "only what was done to objects whose names begin with `TEXT`")
	flags.StringVar(&f.action, "action", "", "only this `ACTION`, such as push or grant.add")
	_ = cmd.RegisterFlagCompletionFunc("action", cobra.FixedCompletions(admin.AuditActions(), cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	flags.StringVar(&f.since, "since", "", "only from `TIME` on: 24h, 7d, 2026-12-31 or 2026-12-31T12:00:00Z")
	flags.StringVar(&f.until, "until", "", "only before `TIME`")
	flags.BoolVar(&f.denied, "denied", false, "only what was not allowed")
	flags.IntVar(&limit, "limit", 100, "print `N` entries at most")
	flags.BoolVar(&export, "export", false, "print all entries as lines of JSON, the oldest first")
	m.addFlags(flags)
	completeFlag(m, cmd, "actor", accountNames)
	return cmd
}

func (m *management) printAudit(cmd *cobra.Command, query url.Values, limit int) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	tab := newTable(cmd.OutOrStdout(), "", "TIME", "ACTOR", "CREDENTIAL", "FROM", "ACTION", "OBJECT", "ALLOWED", "DETAIL")
	query.Set("n", strconv.Itoa(min(limit, 500)))
	for e, err := range each[audit.Entry](cmd.Context(), m, "audit", query) {
		if err == nil && m.json {
			err = enc.Encode(e)
		} else if err == nil {
			allowed := "yes"
			if !e.Allowed {
				allowed = "NO"
			}
			err = tab.row(e.At.Format(time.RFC3339), orDash(e.Actor), orDash(e.Credential), orDash(e.Client), e.Action, orDash(e.Object), allowed, upstream.Printable(e.Detail))
		}
		if err != nil {
			return err
		}
		if limit--; limit == 0 {
			break
		}
	}
	if m.json {
		return nil
	}
	return tab.flush()
}

// download copies an answer as it is.
func (m *management) download(cmd *cobra.Command, path string) error {
	resp, err := m.send(cmd.Context(), http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(cmd.OutOrStdout(), resp.Body)
	return err
}
