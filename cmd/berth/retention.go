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
	"github.com/berthregistry/berth/internal/retention"
)

func newRetentionCommand() *cobra.Command {
	m := new(management)
	return m.group("retention", "Let go of old tags and manifests by policies",
		newRetentionSetCommand(m), newRetentionListCommand(m), newRetentionRemoveCommand(m), newRetentionPlanCommand(m), newRetentionApplyCommand(m))
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
and all that they need or that belongs to them. The server carries policies out once a day; see "berth retention plan" first.`,
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
	flags.IntVar(&n.Rules.Minors, "minors", 0, "keep the latest patch of the latest `N` minor versions")
	flags.Var((*days)(&n.Rules.Pushed), "pushed", "keep what was pushed in this time, such as 30d")
	flags.Var((*days)(&n.Rules.Pulled), "pulled", "keep what was pulled in this time, such as 30d")
	flags.Var((*days)(&n.Rules.Untagged), "untagged", "let manifests go that have had no tag and no pull for this time, such as 7d")
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
			var r oci.Repository
			var order admin.CascadeOrder
			var asked, tags, manifests, bytes int64
			flush := func() error {
				if len(order.Tags)+len(order.Manifests) == 0 {
					return nil
				}
				var done admin.Cascade
				if err := m.call(cmd.Context(), http.MethodPost, "cascade/"+string(r), order, &done); err != nil {
					return err
				}
				asked += int64(len(order.Tags) + len(order.Manifests))
				tags, manifests, bytes = tags+int64(len(done.Tags)), manifests+int64(len(done.Manifests)), bytes+done.Bytes
				order = admin.CascadeOrder{Tags: []admin.CascadeTag{}, Manifests: []oci.Digest{}}
				return nil
			}
			errLimit := errors.New("")
			left := limit
			err = planLines(f, func(i retention.Item) error {
				if i.Action != retention.Drop {
					return nil
				}
				if i.Repository != r || len(order.Tags)+len(order.Manifests) == retention.Batch {
					if err := flush(); err != nil {
						return err
					}
					if r, err = oci.ParseRepository(string(i.Repository)); err != nil {
						return err
					}
				}
				if left--; limit > 0 && left < 0 {
					return errLimit
				}
				if i.Tag != "" {
					order.Tags = append(order.Tags, admin.CascadeTag{Tag: i.Tag, Digest: i.Digest})
				} else {
					order.Manifests = append(order.Manifests, i.Digest)
				}
				return nil
			})
			more := err == errLimit
			if err == nil || more {
				err = flush()
			}
			m.done(cmd, "Deleted %d tags and %d manifests, which frees %s. %d of the plan stayed, or were gone.", tags, manifests, humanize.Bytes(uint64(bytes)), asked-tags-manifests)
			if more {
				m.done(cmd, "There is more in the plan than --limit %d.", limit)
			}
			return err
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "delete at most `N` tags and manifests (default all of the plan)")
	return cmd
}
