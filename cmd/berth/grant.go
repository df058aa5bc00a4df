package main

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/admin"
)

func newGrantCommand() *cobra.Command {
	m := new(management)
	return m.group("grant", "Manage what accounts and teams may do", newGrantAddCommand(m), newGrantListCommand(m), newGrantRemoveCommand(m))
}

func actionNames() []string { return access.All.Names() }

func roleNames() []string {
	var names []string
	for _, r := range access.Roles {
		names = append(names, string(r))
	}
	return names
}

// grantFlags say where, and to whom.
type grantFlags struct {
	everywhere        bool
	user, robot, team string
}

func (f *grantFlags) add(m *management, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.everywhere, "everywhere", false, "in all organizations, in the place of ORG")
	if cmd.Name() == "remove" {
		return
	}
	flags.StringVar(&f.user, "user", "", "the user `NAME`")
	flags.StringVar(&f.robot, "robot", "", "the robot `[ORG+]NAME`")
	flags.StringVar(&f.team, "team", "", "the `TEAM` of ORG, or ORG/TEAM")
	cmd.MarkFlagsMutuallyExclusive("user", "robot", "team")
	completeFlag(m, cmd, "user", namesOf("users"))
	completeFlag(m, cmd, "robot", robotNames)
	completeFlag(m, cmd, "team", teamNames)
}

// where returns the path of the grants, and the arguments without the organization.
func (f *grantFlags) where(cmd *cobra.Command, args []string) (string, []string, error) {
	switch {
	case f.everywhere:
		return "grants", args, nil
	case len(args) == 0:
		return "", nil, usagef(cmd, "ORG is missing, or --everywhere")
	}
	return path("organizations", args[0], "grants"), args[1:], nil
}

func (f *grantFlags) account() string {
	if f.user != "" {
		return f.user
	}
	return f.robot
}

func newGrantAddCommand(m *management) *cobra.Command {
	var f grantFlags
	var n admin.NewGrant
	cmd := &cobra.Command{
		Use: "add ORG|--everywhere", Short: "Let an account or a team do something in an organization",
		Long: `Roles are reader (pull), writer (and push, overwrite), maintainer (and delete) and owner (and admin: manage the organization). A grant
for the same account or team, repositories and tags takes the place of the one before.`,
		Example: `  berth grant add team --user alice --role owner
  berth grant add team --team developers --role writer --repository team/app/**
  berth grant add team --robot team+ci --action pull,push
  berth grant add team --robot team+ci --action overwrite --tag '!v*'
  berth grant add --everywhere --robot backup --role reader`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			where, rest, err := f.where(cmd, args)
			switch {
			case err != nil:
				return err
			case len(rest) > 0:
				return usagef(cmd, "ORG and --everywhere exclude each other")
			case f.account() == "" && f.team == "":
				return usagef(cmd, "one of --user, --robot and --team is needed")
			case (n.Role == "") == (len(n.Actions) == 0):
				return usagef(cmd, "one of --role and --action is needed")
			}
			n.Account, n.Team = f.account(), f.team
			var g admin.Grant
			if err := m.call(cmd.Context(), http.MethodPost, where, n, &g); err != nil {
				return err
			}
			return m.show(cmd, g, [2]string{"ID", strconv.FormatInt(g.ID, 10)}, [2]string{"To", subject(g)}, [2]string{"In", grantPlace(g)},
				[2]string{"Role", g.Role}, [2]string{"Actions", strings.Join(g.Actions, ", ")},
				[2]string{"Repositories", strings.Join(g.Repositories, " ")}, [2]string{"Tags", strings.Join(g.Tags, " ")})
		}),
	}
	f.add(m, cmd)
	flags := cmd.Flags()
	flags.StringVar(&n.Role, "role", "", "the `ROLE` reader, writer, maintainer or owner")
	flags.StringSliceVar(&n.Actions, "action", nil, "these `ACTIONS`, with commas: pull, push, overwrite, delete, admin")
	flags.StringArrayVar(&n.Repositories, "repository", nil, "for repositories that match `PATTERN`, such as team/app/**, or !team/base; may be repeated (default all)")
	flags.StringArrayVar(&n.Tags, "tag", nil, "push, overwrite and delete for tags that match `PATTERN`, such as dev-*, or !v*; may be repeated (default all)")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roleNames(), cobra.ShellCompDirectiveNoFileComp))
	completeActions(cmd)
	return cmd
}

func subject(g admin.Grant) string {
	if g.Team != "" {
		return "team " + g.Team
	}
	return g.Account
}

func grantPlace(g admin.Grant) string {
	if g.Organization == "" {
		return "everywhere"
	}
	return g.Organization
}

func newGrantListCommand(m *management) *cobra.Command {
	var f grantFlags
	cmd := &cobra.Command{
		Use: "list ORG|--everywhere", Aliases: []string{"ls"}, Short: "List the grants in an organization, or those that are everywhere",
		Long: "With --user, --robot or --team in the place of ORG, all grants of an account or a team.",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			f.everywhere = f.everywhere || len(args) == 0 && (f.account() != "" || f.team != "")
			where, _, err := f.where(cmd, args)
			if err != nil {
				return err
			}
			query := make(url.Values)
			if a := f.account(); a != "" {
				query.Set("account", a)
			}
			if f.team != "" {
				query.Set("team", f.team)
			}
			return listAll(cmd, m, where, query, []string{"ID", "TO", "IN", "MAY", "REPOSITORIES", "TAGS"}, func(g admin.Grant) []string {
				may := g.Role
				if may == "" {
					may = strings.Join(g.Actions, ",")
				}
				return []string{strconv.FormatInt(g.ID, 10), subject(g), grantPlace(g), may, orDash(strings.Join(g.Repositories, " ")), orDash(strings.Join(g.Tags, " "))}
			})
		}),
	}
	f.add(m, cmd)
	return cmd
}

func newGrantRemoveCommand(m *management) *cobra.Command {
	var f grantFlags
	cmd := &cobra.Command{
		Use: "remove ORG|--everywhere ID", Aliases: []string{"rm"}, Short: "Take a grant back, at once",
		Args: cobra.MaximumNArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
			ids := func([]string, string) (string, string) {
				where, _, err := f.where(cmd, args)
				if err != nil {
					return "", ""
				}
				return where, ""
			}
			if f.everywhere {
				return complete(m, ids)(cmd, args, begin)
			}
			return complete(m, namesOf("organizations"), ids)(cmd, args, begin)
		},
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			where, rest, err := f.where(cmd, args)
			if err != nil {
				return err
			}
			if len(rest) != 1 {
				return usagef(cmd, "ID is missing, or ORG was given beside --everywhere")
			}
			if err := m.call(cmd.Context(), http.MethodDelete, where+"/"+path(rest[0]), nil, nil); err != nil {
				return err
			}
			m.done(cmd, "Grant %s is removed.", rest[0])
			return nil
		}),
	}
	f.add(m, cmd)
	return cmd
}
