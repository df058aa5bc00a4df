package main

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/server"
)

func newQuotaCommand() *cobra.Command {
	m := new(management)
	return m.group("quota", "Limit what organizations use", newQuotaSetCommand(m), newQuotaListCommand(m), newQuotaShowCommand(m), newQuotaRemoveCommand(m))
}

func newQuotaSetCommand(m *management) *cobra.Command {
	var bytes string
	var tags, repositories int64
	var warn int
	var l admin.QuotaLimits
	cmd := &cobra.Command{
		Use: "set ORG", Short: "Limit what an organization uses, in the place of the limits that it has",
		Long: `An organization is the first part of repositories' names; it need not have been made. What is not given has no limit. What is used already stays, however much that is; who
wants to add to it is refused until there is room.

--bytes counts a blob in every repository that has it; with --deduplicated, once. Manifests count in both, and so does what nothing needs any more until
it is collected. From --warn percent of a limit on, clients that push manifests get a warning.`,
		Example: `  berth quota set team --bytes 100GB
  berth quota set team --bytes 50GiB --deduplicated --tags 5000 --repositories 100 --warn 90`,
		Args: exactArgs("ORG"), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			flags := cmd.Flags()
			if flags.Changed("bytes") {
				var size server.Size
				if err := size.UnmarshalText([]byte(bytes)); err != nil {
					return usagef(cmd, "--bytes: %w", err)
				}
				n := int64(size)
				l.Bytes = &n
			}
			if flags.Changed("tags") {
				l.Tags = &tags
			}
			if flags.Changed("repositories") {
				l.Repositories = &repositories
			}
			if l.Bytes == nil && l.Tags == nil && l.Repositories == nil {
				return usagef(cmd, "one of --bytes, --tags and --repositories is needed")
			}
			l.Warn = &warn
			var q admin.Quota
			if err := m.call(cmd.Context(), http.MethodPut, path("organizations", args[0], "quota"), l, &q); err != nil {
				return err
			}
			return m.show(cmd, q, quotaRows(q)...)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&bytes, "bytes", "", "at most this `SIZE`, such as 100GB or 50GiB")
	flags.BoolVar(&l.Deduplicated, "deduplicated", false, "let --bytes count each blob once in the organization")
	flags.Int64Var(&tags, "tags", 0, "at most `N` tags")
	flags.Int64Var(&repositories, "repositories", 0, "at most `N` repositories")
	flags.IntVar(&warn, "warn", 80, "warn from so many `PERCENT` of a limit on; 101 for never")
	return cmd
}

// quotaText shows a limit and what of it is used.
func quotaText(limit *int64, used int64, text func(int64) string) string {
	if limit == nil {
		return ""
	}
	return text(used) + " of " + text(*limit)
}

// quotaTexts shows the limits of bytes, tags and repositories.
func quotaTexts(q admin.Quota) (bytes, tags, repositories string) {
	used, what := q.Used.Bytes, ""
	if q.Deduplicated {
		used, what = q.Used.Deduplicated, " deduplicated"
	}
	if bytes = quotaText(q.Bytes, used, sizeText); bytes != "" {
		bytes += what
	}
	return bytes, quotaText(q.Tags, q.Used.Tags, humanize.Comma), quotaText(q.Repositories, q.Used.Repositories, humanize.Comma)
}

func quotaRows(q admin.Quota) [][2]string {
	bytes, tags, repositories := quotaTexts(q)
	return [][2]string{
		{"Organization", q.Organization}, {"Bytes", bytes}, {"Tags", tags}, {"Repositories", repositories},
		{"Warns", warnText(q)}, {"Near", yes(q.Near)},
	}
}

func warnText(q admin.Quota) string {
	if q.Warn == nil || *q.Warn > 100 {
		return "never"
	}
	return fmt.Sprintf("from %s %% on", strconv.Itoa(*q.Warn))
}

func newQuotaListCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List quotas, and what of them is used", Args: cobra.NoArgs,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			return listAll(cmd, m, "quotas", nil, []string{"ORGANIZATION", "BYTES", "TAGS", "REPOSITORIES", "WARNS", "NEAR"}, func(q admin.Quota) []string {
				bytes, tags, repositories := quotaTexts(q)
				return []string{q.Organization, orDash(bytes), orDash(tags), orDash(repositories), warnText(q), orDash(yes(q.Near))}
			})
		}),
	}
}

func newQuotaShowCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "show ORG", Short: "Show the quota of an organization, and what of it is used",
		Args: exactArgs("ORG"), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			var q admin.Quota
			if err := m.call(cmd.Context(), http.MethodGet, path("organizations", args[0], "quota"), nil, &q); err != nil {
				return err
			}
			return m.show(cmd, q, quotaRows(q)...)
		}),
	}
}

func newQuotaRemoveCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "remove ORG", Aliases: []string{"rm"}, Short: "Let an organization use what it wants",
		Args: exactArgs("ORG"), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			if err := m.call(cmd.Context(), http.MethodDelete, path("organizations", args[0], "quota"), nil, nil); err != nil {
				return err
			}
			m.done(cmd, "Organization %s has no quota any more.", args[0])
			return nil
		}),
	}
}
