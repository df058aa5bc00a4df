package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

const scopeHelp = `SCOPE is a repository, or the beginning of names with a '/' at its end, such as the name of an organization; without it, all
repositories are meant that you may see. A time is 24h or 7d for so long ago, 2026-12-31 or 2026-12-31T12:00:00Z.`

// at makes a command work on the server that a reference names, if it names one.
func (m *management) at(cmd *cobra.Command, host, arg string) error {
	if host == "" {
		return nil
	}
	if m.server != "" {
		return usagef(cmd, "%q and --server both name a registry", arg)
	}
	m.server = host
	return nil
}

// onReference makes the RunE of a command whose first argument is a repository or something in it.
func (m *management) onReference(do func(cmd *cobra.Command, ref reference) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ref, err := parseReference(args[0], "")
		if err != nil {
			return usagef(cmd, "%w", err)
		}
		if err := m.at(cmd, ref.host, args[0]); err != nil {
			return err
		}
		return m.run(func(cmd *cobra.Command, _ []string) error { return do(cmd, ref) })(cmd, args)
	}
}

// onScope makes the RunE of a command whose argument, if any, is a scope: [HOST/][SCOPE].
func (m *management) onScope(do func(cmd *cobra.Command, scope string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		scope := ""
		if len(args) == 1 {
			scope = args[0]
			if first, rest, ok := strings.Cut(scope, "/"); ok && isHost(first) {
				if err := m.at(cmd, first, scope); err != nil {
					return err
				}
				scope = rest
			}
			if scope != "" {
				if _, err := oci.ParseRepository(strings.TrimSuffix(scope, "/")); err != nil {
					return usagef(cmd, "%q is neither a repository nor the beginning of names with a '/' at its end", args[0])
				}
			}
		}
		return m.run(func(cmd *cobra.Command, _ []string) error {
			m.hintScope(cmd, scope)
			return do(cmd, scope)
		})(cmd, args)
	}
}

// hintScope says so if a scope is a repository that has no tags, while there is an organization of that name. What fails here is for the command to tell.
func (m *management) hintScope(cmd *cobra.Command, scope string) {
	if scope == "" || strings.Contains(scope, "/") {
		return
	}
	has := func(scope string) bool {
		for _, err := range each[admin.TagAt](cmd.Context(), m, "history/tags", url.Values{"scope": {scope}, "n": {"1"}}) {
			return err == nil
		}
		return false
	}
	if organization := scope + "/"; !has(scope) && has(organization) {
		fmt.Fprintf(cmd.ErrOrStderr(), "The repository %s has no tags; %q stands for the organization.\n", scope, organization)
	}
}

// pastQuery is a time in a form that the API reads.
func pastQuery(cmd *cobra.Command, flag, text string) (string, error) {
	if text == "" {
		return "", usagef(cmd, "--%s is missing", flag)
	}
	t, err := parsePast(text)
	if err != nil {
		return "", usagef(cmd, "--%s: %w", flag, err)
	}
	return t.UTC().Format(time.RFC3339Nano), nil
}

// momentText is a time to the precision that it is stored with.
func momentText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// shortDigest is a digest for people; a dash if there is none.
func shortDigest(s string, whole bool) string {
	if d, err := oci.ParseDigest(s); err == nil {
		return digestText(d, whole)
	}
	return orDash(s)
}

func newTagHistoryCommand() *cobra.Command {
	m := new(management)
	var limit int
	var noTrunc bool
	cmd := &cobra.Command{
		Use: "history [HOST/]REPO[:TAG]", Short: "Show who moved a tag, when, and from where to where",
		Long: "Show the moves of a tag, or of all tags of a repository, the last first: when, from which manifest to which, and who did it by which credential." + managementHelp,
		Example: `  berth tag history team/app:latest
  berth tag history --limit 1000 --json team/app`,
		Args: exactArgs("REPO[:TAG]"),
		RunE: m.onReference(func(cmd *cobra.Command, ref reference) error {
			switch {
			case !ref.digest.IsZero():
				return usagef(cmd, "a digest has no history: name a tag, or the repository")
			case limit < 1:
				return usagef(cmd, "--limit must be at least 1")
			}
			query := url.Values{"repository": {string(ref.name)}, "tag": {string(ref.tag)}, "n": {strconv.Itoa(min(limit, 500))}}
			left := limit
			return listUntil(cmd, m, "history/moves", query, []string{"TIME", "TAG", "FROM", "TO", "BY", "CREDENTIAL", "HOW"}, func(v admin.Move) ([]string, bool) {
				left--
				return []string{momentText(v.At), v.Tag, shortDigest(v.Old, noTrunc), shortDigest(v.New, noTrunc), orDash(v.Actor), orDash(v.Credential), orDash(v.Method)}, left > 0
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "print `N` moves at most")
	cmd.Flags().BoolVar(&noTrunc, "no-trunc", false, "print digests in full")
	m.addFlags(cmd.Flags())
	return cmd
}

func newTagResolveCommand() *cobra.Command {
	m := new(management)
	var at string
	cmd := &cobra.Command{
		Use: "resolve [HOST/]REPO:TAG --at TIME", Short: "Print the digest that a tag pointed to at a time",
		Long: `Print the digest that a tag pointed to at a time. The manifest may have been deleted since, see --json.

Any client can pull a tag as it was, by the tag TAG.at-YYYYMMDDTHHMMSSZ, if the manifest is still in the repository.` + managementHelp,
		Example: `  berth tag resolve team/app:latest --at 24h
  docker pull registry.example.com/team/app@$(berth tag resolve registry.example.com/team/app:latest --at 2026-12-31T12:00:00Z)`,
		Args: exactArgs("REPO:TAG"),
		RunE: m.onReference(func(cmd *cobra.Command, ref reference) error {
			if ref.tag == "" || !ref.digest.IsZero() {
				return usagef(cmd, "name a tag")
			}
			when, err := pastQuery(cmd, "at", at)
			if err != nil {
				return err
			}
			query := url.Values{"scope": {string(ref.name)}, "tag": {string(ref.tag)}, "at": {when}}
			for v, err := range each[admin.TagAt](cmd.Context(), m, "history/tags", query) {
				if err != nil {
					return err
				}
				if m.json {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), v.Digest)
				return err
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&at, "at", "", "the `TIME`: 24h, 7d, 2026-12-31 or 2026-12-31T12:00:00Z")
	m.addFlags(cmd.Flags())
	return cmd
}

// tagsAt prints the tags of a repository as they were.
func (l *tagList) tagsAt(cmd *cobra.Command, conn connection, ref reference, at string) error {
	when, err := pastQuery(cmd, "at", at)
	if err != nil {
		return err
	}
	m := &management{conn: conn, server: ref.host, json: l.json}
	return m.run(func(cmd *cobra.Command, _ []string) error {
		query := url.Values{"scope": {string(ref.name)}, "at": {when}}
		if l.quiet && !l.json {
			for v, err := range each[admin.TagAt](cmd.Context(), m, "history/tags", query) {
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), v.Tag); err != nil {
					return err
				}
			}
			return nil
		}
		return listAll(cmd, m, "history/tags", query, tagAtHeader, func(v admin.TagAt) []string { return tagAtRow(v, l.noTrunc) })
	})(cmd, nil)
}

func newTagRestoreCommand() *cobra.Command {
	m := new(management)
	var at string
	cmd := &cobra.Command{
		Use: "restore [HOST/]REPO:TAG [--at TIME]", Short: "Set a tag back to what it was",
		Long: `Set a tag back to what it was at a time, or without one to what it was before its last move. A tag that was deleted is made again, and a
manifest that was deleted comes out of the trash. The right that it needs is that of a push.` + managementHelp,
		Example: `  berth tag restore team/app:latest
  berth tag restore team/app:latest --at 2026-12-31T12:00:00Z`,
		Args: exactArgs("REPO:TAG"),
		RunE: m.onReference(func(cmd *cobra.Command, ref reference) error {
			if ref.tag == "" || !ref.digest.IsZero() {
				return usagef(cmd, "name a tag")
			}
			o := admin.RestoreOrder{Scope: string(ref.name), Tag: string(ref.tag)}
			if at != "" {
				var err error
				if o.At, err = pastQuery(cmd, "at", at); err != nil {
					return err
				}
			}
			var p admin.Page[admin.Restore]
			if err := m.call(cmd.Context(), http.MethodPost, "history/restore", o, &p); err != nil {
				return err
			}
			if len(p.Items) == 0 {
				m.done(cmd, "%s:%s is what it was: nothing to do", ref.name, ref.tag)
				return nil
			}
			v := p.Items[0]
			if v.Problem != "" {
				return fmt.Errorf("%s:%s cannot be set back to %s: %s", v.Repository, v.Tag, v.Then, v.Problem)
			}
			if m.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			m.done(cmd, "%s:%s is %s again (was %s)", v.Repository, v.Tag, v.Then, orDash(v.Now))
			return nil
		}),
	}
	cmd.Flags().StringVar(&at, "at", "", "the `TIME`: 24h, 7d, 2026-12-31 or 2026-12-31T12:00:00Z")
	m.addFlags(cmd.Flags())
	return cmd
}

func newHistoryCommand() *cobra.Command {
	m := new(management)
	return m.group("history", "Look at all tags as they were, compare two times, and restore one", newHistoryLsCommand(m), newHistoryDiffCommand(m), newHistoryRestoreCommand(m))
}

func newHistoryLsCommand(m *management) *cobra.Command {
	var at string
	var noTrunc bool
	cmd := &cobra.Command{
		Use: "ls [HOST/][SCOPE] --at TIME", Aliases: []string{"list"}, Short: "List the tags that there were at a time",
		Long: `List all tags that there were at a time, with where their manifests are now: in the repository, in the trash or gone.

` + scopeHelp,
		Example: `  berth history ls team/ --at 7d
  berth history ls --at 2026-12-31T12:00:00Z --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: m.onScope(func(cmd *cobra.Command, scope string) error {
			when, err := pastQuery(cmd, "at", at)
			if err != nil {
				return err
			}
			query, header := url.Values{"scope": {scope}, "at": {when}}, append([]string{"REPOSITORY"}, tagAtHeader...)
			return listAll(cmd, m, "history/tags", query, header, func(v admin.TagAt) []string { return append([]string{v.Repository}, tagAtRow(v, noTrunc)...) })
		}),
	}
	cmd.Flags().StringVar(&at, "at", "", "the `TIME`")
	cmd.Flags().BoolVar(&noTrunc, "no-trunc", false, "print digests in full")
	return cmd
}

var tagAtHeader = []string{"TAG", "DIGEST", "SINCE", "MANIFEST"}

func tagAtRow(v admin.TagAt, noTrunc bool) []string {
	return []string{v.Tag, shortDigest(v.Digest, noTrunc), momentText(v.Since), string(v.Kept)}
}

func newHistoryDiffCommand(m *management) *cobra.Command {
	var from, to string
	var noTrunc bool
	cmd := &cobra.Command{
		Use: "diff [HOST/][SCOPE] --from TIME [--to TIME]", Short: "Show which tags pointed elsewhere at one of two times",
		Long: scopeHelp,
		Example: `  berth history diff team/app --from 24h
  berth history diff team/ --from 2026-12-01 --to 2026-12-31`,
		Args: cobra.MaximumNArgs(1),
		RunE: m.onScope(func(cmd *cobra.Command, scope string) error {
			query := url.Values{"scope": {scope}}
			when, err := pastQuery(cmd, "from", from)
			if err != nil {
				return err
			}
			query.Set("from", when)
			if to != "" {
				if when, err = pastQuery(cmd, "to", to); err != nil {
					return err
				}
				query.Set("to", when)
			}
			return listAll(cmd, m, "history/changes", query, []string{"REPOSITORY", "TAG", "CHANGE", "FROM", "TO"}, func(v admin.TagDiff) []string {
				change := "moved"
				switch {
				case v.From == "":
					change = "new"
				case v.To == "":
					change = "gone"
				}
				return []string{v.Repository, v.Tag, change, shortDigest(v.From, noTrunc), shortDigest(v.To, noTrunc)}
			})
		}),
	}
	cmd.Flags().StringVar(&from, "from", "", "the first `TIME`")
	cmd.Flags().StringVar(&to, "to", "", "the second `TIME` (default now)")
	cmd.Flags().BoolVar(&noTrunc, "no-trunc", false, "print digests in full")
	return cmd
}

func newHistoryRestoreCommand(m *management) *cobra.Command {
	var at string
	var keepNew, execute, noTrunc bool
	cmd := &cobra.Command{
		Use: "restore [HOST/][SCOPE] --at TIME", Short: "Set all tags back to what they were at a time",
		Long: `Set tags back to what they were at a time: tags that have moved since move back, tags that were deleted are made again with what lies in the
trash, and tags that were made since are deleted, though not their manifests. Without --yes the plan is printed and nothing is changed. What cannot be restored is
listed with why, and does not keep the rest. Run again, it goes on where it ended.

` + scopeHelp,
		Example: `  berth history restore team/ --at 2026-12-31T12:00:00Z
  berth history restore team/ --at 2026-12-31T12:00:00Z --yes`,
		Args: cobra.MaximumNArgs(1),
		RunE: m.onScope(func(cmd *cobra.Command, scope string) error {
			when, err := pastQuery(cmd, "at", at)
			if err != nil {
				return err
			}
			o := admin.RestoreOrder{Scope: scope, At: when, KeepNew: keepNew}
			return m.restore(cmd, o, execute, noTrunc)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&at, "at", "", "the `TIME`")
	flags.BoolVar(&keepNew, "keep-new", false, "leave tags that were not there then")
	flags.BoolVar(&execute, "yes", false, "do it")
	flags.BoolVar(&noTrunc, "no-trunc", false, "print digests in full")
	return cmd
}

// restore prints what a restore would do, or does it.
func (m *management) restore(cmd *cobra.Command, o admin.RestoreOrder, execute, noTrunc bool) error {
	out := cmd.OutOrStdout()
	enc, tab := json.NewEncoder(out), newTable(out, "", "REPOSITORY", "TAG", "ACTION", "NOW", "THEN", "PROBLEM")
	done, failed := 0, 0
	for {
		var p admin.Page[admin.Restore]
		var err error
		if execute {
			err = m.call(cmd.Context(), http.MethodPost, "history/restore", o, &p)
		} else {
			query := url.Values{"scope": {o.Scope}, "at": {o.At}, "keep_new": {strconv.FormatBool(o.KeepNew)}, "after": {o.After}, "n": {"500"}}
			err = m.call(cmd.Context(), http.MethodGet, "history/restore?"+query.Encode(), nil, &p)
		}
		if err != nil {
			return err
		}
		for _, v := range p.Items {
			if done++; v.Problem != "" {
				done--
				failed++
			}
			if m.json {
				err = enc.Encode(v)
			} else {
				err = tab.row(v.Repository, v.Tag, restoreAction(v), shortDigest(v.Now, noTrunc), shortDigest(v.Then, noTrunc), upstream.Printable(v.Problem))
			}
			if err != nil {
				return err
			}
		}
		if o.After = p.Next; p.Next == "" {
			break
		}
	}
	if !m.json {
		if err := tab.flush(); err != nil {
			return err
		}
	}
	switch {
	case !execute:
		m.done(cmd, "%d tags to restore, %d that cannot be: nothing has been changed, --yes does it", done, failed)
	case failed > 0:
		return fmt.Errorf("%d tags have been restored, %d could not be", done, failed)
	default:
		m.done(cmd, "%d tags have been restored", done)
	}
	return nil
}

func restoreAction(v admin.Restore) string {
	switch {
	case v.Then == "":
		return "delete"
	case v.Now == "":
		return "make"
	}
	return "move"
}
