package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

func newTeamCommand() *cobra.Command {
	m := new(management)
	return m.group("team", "Manage teams, whose members have rights together",
		newTeamAddCommand(m), newTeamListCommand(m), newTeamDeleteCommand(m), newTeamMembersCommand(m),
		newTeamMemberCommand(m, "add-member", "Put accounts into a team", http.MethodPut),
		newTeamMemberCommand(m, "remove-member", "Take accounts out of a team", http.MethodDelete),
		newTeamGroupsCommand(m))
}

// teamPath is that of ORG/TEAM.
func teamPath(cmd *cobra.Command, s string, more ...string) (string, error) {
	organization, team, ok := strings.Cut(s, "/")
	if !ok || organization == "" || team == "" {
		return "", usagef(cmd, "%q is no team: write ORG/TEAM", s)
	}
	return path(append([]string{"organizations", organization, "teams", team}, more...)...), nil
}

func newTeamAddCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "add ORG/TEAM", Short: "Make a team", Args: exactArgs("ORG/TEAM"),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			if _, err := teamPath(cmd, args[0]); err != nil {
				return err
			}
			organization, name, _ := strings.Cut(args[0], "/")
			var t admin.Team
			if err := m.call(cmd.Context(), http.MethodPost, path("organizations", organization, "teams"), admin.NewTeam{Name: name}, &t); err != nil {
				return err
			}
			return m.show(cmd, t, [2]string{"Name", args[0]}, [2]string{"Created", expiryText(t.Created)})
		}),
	}
}

func newTeamListCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "list ORG", Aliases: []string{"ls"}, Short: "List the teams of an organization", Args: exactArgs("ORG"), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			return listAll(cmd, m, path("organizations", args[0], "teams"), nil, []string{"NAME", "MEMBERS"}, func(t admin.Team) []string {
				return []string{t.Name, strconv.Itoa(t.Members)}
			})
		}),
	}
}

func newTeamDeleteCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "delete ORG/TEAM", Aliases: []string{"rm"}, Short: "Delete a team, with its grants", Args: exactArgs("ORG/TEAM"), ValidArgsFunction: complete(m, teamNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			where, err := teamPath(cmd, args[0])
			if err != nil {
				return err
			}
			if err := m.call(cmd.Context(), http.MethodDelete, where, nil, nil); err != nil {
				return err
			}
			m.done(cmd, "%s is deleted.", args[0])
			return nil
		}),
	}
}

func newTeamMembersCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "members ORG/TEAM", Short: "List the members of a team, and the groups that belong to it", Args: exactArgs("ORG/TEAM"),
		ValidArgsFunction: complete(m, teamNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			where, err := teamPath(cmd, args[0])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for member, err := range each[admin.Member](cmd.Context(), m, where+"/members", nil) {
				if err == nil && m.json {
					err = m.show(cmd, member)
				} else if err == nil {
					_, err = fmt.Fprintln(out, member.Name)
				}
				if err != nil {
					return err
				}
			}
			for groups, err := range each[admin.Groups](cmd.Context(), m, where+"/groups", nil) {
				if err == nil && m.json {
					err = m.show(cmd, groups)
				} else if err == nil {
					for _, name := range groups.Names {
						fmt.Fprintf(out, "group %s of %s\n", orDash(name), groups.Source)
					}
				}
				if err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

func newTeamMemberCommand(m *management, name, short, method string) *cobra.Command {
	return &cobra.Command{
		Use: name + " ORG/TEAM ACCOUNT...", Short: short,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return fmt.Errorf("%s is missing", []string{"ORG/TEAM", "ACCOUNT"}[len(args)])
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return complete(m, teamNames)(cmd, nil, begin)
			}
			return complete(m, accountNames)(cmd, nil, begin) // as many as one likes
		},
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			for _, account := range args[1:] {
				where, err := teamPath(cmd, args[0], "members", account)
				if err != nil {
					return err
				}
				if err := m.call(cmd.Context(), method, where, nil, nil); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

func newTeamGroupsCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "set-groups ORG/TEAM SOURCE [GROUP...]", Short: "Say which groups of a directory or issuer belong to a team",
		Long: "SOURCE is what the directory or issuer is called in the configuration. The groups take the place of those before; without any, none belongs to it.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return fmt.Errorf("%s is missing", []string{"ORG/TEAM", "SOURCE"}[len(args)])
			}
			return nil
		},
		ValidArgsFunction: complete(m, teamNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			where, err := teamPath(cmd, args[0], "groups", args[1])
			if err != nil {
				return err
			}
			return m.call(cmd.Context(), http.MethodPut, where, admin.GroupNames{Names: args[2:]}, nil)
		}),
	}
}
