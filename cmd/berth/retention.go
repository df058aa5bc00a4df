package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
	"github.com/berthregistry/berth/internal/retention"
)

func newRetentionCommand() *cobra.Command {
	m := new(management)
	return m.group("retention", "Let go of old tags and manifests by policies",
		append([]*cobra.Command{newRetentionSetCommand(m), newRetentionListCommand(m), newRetentionRemoveCommand(m), newRetentionPlanCommand(m), newRetentionApplyCommand(m),
			newRetentionStatusCommand(m)}, jobCommands(m, "retention", "Retention")...)...)
}

func newRetentionStatusCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show whether policies are being carried out, and what the last time deleted", Args: cobra.NoArgs,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			var s admin.JobStatus
			if err := m.call(cmd.Context(), http.MethodGet, "retention/status", nil, &s); err != nil {
				return err
			}
			last := ""
			if !s.LastEnded.IsZero() {
				last = "ended " + ageText(s.LastEnded.Time) + ": " + s.LastResult
			}
			return m.show(cmd, s, append(jobRows(s), [2]string{"Last run", last})...)
		}),
	}
}

// minors is the value of a flag that is a number of minor versions, or "all".
type minors int

func (n *minors) String() string { return "" }
func (n *minors) Type() string   { return "N" }

// Set implements pflag.Value.
func (n *minors) Set(s string) error {
	if s == "all" {
		*n = policy.AllMinors
		return nil
	}
	v, err := strconv.ParseUint(s, 10, 31)
	*n = minors(v)
	return err
}

// days is the value of a flag that is a time: 30d, or as Go has it.
type days float64 // hours

func (d *days) String() string { return "" }
func (d *days) Type() string   { return "TIME" }

// Set implements pflag.Value.
func (d *days) Set(s string) error {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		v, err := strconv.ParseUint(n, 10, 20)
		*d = days(24 * v)
		return err
	}
	v, err := time.ParseDuration(s)
	*d = days(v.Hours())
	return err
}

func newRetentionSetCommand(m *management) *cobra.Command {
	var n admin.NewRetention
	cmd := &cobra.Command{
		Use: "set [ORG]", Short: "Add a policy: which tags are kept, of those that it is for",
		Long: `Tags that no policy is for are kept. Of the others those are kept that any rule of any policy for them keeps, or that are protected. Manifests stay that have such a tag,
and all that they need or that belongs to them. The server carries policies out every "retention.interval", which is a day; see "berth retention plan" first.`,
		Example: `  berth retention set team --tag '*' --newest 20 --pulled 30d
  berth retention set team --repository 'team/app/**' --tag semver --minors 3
  berth retention set --untagged 7d`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			var p admin.Retention
			if err := m.call(cmd.Context(), http.MethodPost, scopePath(args, "retention"), n, &p); err != nil {
				return err
			}
			return m.show(cmd, p, [2]string{"ID", strconv.FormatInt(p.ID, 10)}, [2]string{"In", scopeName(p.Organization)},
				[2]string{"Repositories", strings.Join(p.Repositories, " ")}, [2]string{"Tags", strings.Join(p.Tags, " ")}, [2]string{"Keeps", p.Rules.Policy().String()})
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&n.Repositories, "repository", nil, "in repositories that match `PATTERN`; may be repeated (default all)")
	flags.StringArrayVar(&n.Tags, "tag", nil, "for tags that match `PATTERN`, as of \"berth tag protect\"; may be repeated (default all)")
	flags.IntVar(&n.Rules.Newest, "newest", 0, "keep the `N` tags of a repository that were pushed last")
	flags.Var((*minors)(&n.Rules.Minors), "minors", "keep the latest patch of the latest `N` minor versions, or of \"all\"")
	flags.IntVar(&n.Rules.Patches, "patches", 0, "with --minors, keep the latest `N` patches of each (default 1)")
	flags.Var((*days)(&n.Rules.Pushed), "pushed", "keep what was pushed in this time, such as 30d")
	flags.Var((*days)(&n.Rules.Pulled), "pulled", "keep what was pulled or pushed in this time, such as 30d")
	flags.Var((*days)(&n.Rules.Untagged), "untagged", "let manifests go that nothing has needed, and nobody has pulled or pushed, for this time, such as 7d")
	return cmd
}

func newRetentionListCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "ls [ORG]", Aliases: []string{"list"}, Short: "List the policies of an organization, or those for all",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			return listAll(cmd, m, scopePath(args, "retention"), nil, []string{"ID", "IN", "REPOSITORIES", "TAGS", "KEEPS", "BY", "SINCE"}, func(p admin.Retention) []string {
				return []string{strconv.FormatInt(p.ID, 10), scopeName(p.Organization), orDash(strings.Join(p.Repositories, " ")), orDash(strings.Join(p.Tags, " ")),
					p.Rules.Policy().String(), p.By, ageText(p.Created.Time)}
			})
		}),
	}
}

func newRetentionRemoveCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "rm [ORG] ID", Aliases: []string{"remove"}, Short: "Remove a policy",
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			id := args[len(args)-1]
			if err := m.call(cmd.Context(), http.MethodDelete, scopePath(args[:len(args)-1], "retention")+"/"+path(id), nil, nil); err != nil {
				return err
			}
			m.done(cmd, "Policy %s is removed.", id)
			return nil
		}),
	}
}

// planLines calls each for every line of a plan.
func planLines(from io.Reader, each func(retention.Item) error) error {
	for d := json.NewDecoder(bufio.NewReader(from)); ; {
		var i retention.Item
		if err := d.Decode(&i); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("the plan cannot be read: %w", err)
		}
		if err := each(i); err != nil {
			return err
		}
	}
}

func newRetentionPlanCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "plan [ORG]", Short: "Show what policies let go and what they keep, with the reason",
		Example: `  berth retention plan team
  berth retention plan team --json > plan && berth retention apply plan`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			resp, err := m.send(cmd.Context(), http.MethodGet, scopePath(args, "retention")+"/plan", nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			out := cmd.OutOrStdout()
			if m.json {
				_, err := io.Copy(out, resp.Body)
				return err
			}
			tab := newTable(out, "", "ACTION", "FREES", "WHAT", "WHY")
			if err := planLines(resp.Body, func(i retention.Item) error {
				what := string(i.Repository)
				switch {
				case i.Tag != "":
					what += ":" + string(i.Tag)
				case !i.Digest.IsZero():
					what += "@" + i.Digest.String()
				}
				return tab.row(string(i.Action), humanize.Bytes(uint64(i.Bytes)), what, i.Why)
			}); err != nil {
				return err
			}
			return tab.flush()
		}),
	}
}

func newRetentionApplyCommand(m *management) *cobra.Command {
	limit := 0
	cmd := &cobra.Command{
		Use: "apply PLAN", Short: "Delete what a plan in a file says, and nothing else",
		Long: `Delete what a plan of "berth retention plan --json" in a file says, and nothing else. What has moved since, or is needed by something that the plan does not let go, stays, and is
counted. To apply a plan again does no harm.`,
		Args: exactArgs("PLAN"),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			var asked, tags, manifests, bytes int64
			e := retention.Executor{Limit: limit, Do: func(r oci.Repository, items []retention.Item) error {
				if _, err := oci.ParseRepository(string(r)); err != nil {
					return err
				}
				order := admin.CascadeOrder{Tags: []admin.OrderedTag{}, Manifests: []admin.OrderedManifest{}}
				for _, i := range items {
					if i.Tag != "" {
						order.Tags = append(order.Tags, admin.OrderedTag{CascadeTag: admin.CascadeTag{Tag: i.Tag, Digest: i.Digest}, Pushed: i.Pushed, Pulled: i.Pulled})
					} else {
						order.Manifests = append(order.Manifests, admin.OrderedManifest{Digest: i.Digest, Pushed: i.Pushed, Pulled: i.Pulled})
					}
				}
				var done admin.Cascade
				if err := m.call(cmd.Context(), http.MethodPost, "cascade/"+string(r), order, &done); err != nil {
					return err
				}
				asked += int64(len(items))
				tags, manifests, bytes = tags+int64(len(done.Tags)), manifests+int64(len(done.Manifests)), bytes+done.Bytes
				return nil
			}}
			err = planLines(f, e.Add)
			if err == nil || errors.Is(err, retention.ErrLimit) {
				err = e.Close()
			}
			m.done(cmd, "Deleted %d tags and %d manifests, which frees %s. %d of the plan stayed, or were gone.", tags, manifests, humanize.Bytes(uint64(bytes)), asked-tags-manifests)
			if e.More {
				m.done(cmd, "There is more in the plan than --limit %d.", limit)
			}
			return err
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "delete at most `N` tags and manifests (default all of the plan)")
	return cmd
}
