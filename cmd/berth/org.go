package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

func newOrgCommand() *cobra.Command {
	m := new(management)
	return m.group("org", "Manage organizations, the first part of the names of repositories",
		newOrgAddCommand(m), newOrgListCommand(m), newOrgShowCommand(m), newOrgSetCommand(m),
		deleteCommand(m, "NAME", "Delete an organization with its teams, robots and grants; its repositories stay", namesOf("organizations"),
			func(name string) string { return path("organizations", name) }))
}

// orgFlags are what can be said about an organization.
type orgFlags struct {
	public   bool
	creation string
}

func (f *orgFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.public, "public", false, "let everybody pull, without signing in; --public=false undoes that")
	cmd.Flags().StringVar(&f.creation, "creation", "push", "let repositories be made by `WHO`: push (whoever may push), admin or nobody")
	_ = cmd.RegisterFlagCompletionFunc("creation", cobra.FixedCompletions([]string{"push", "admin", "nobody"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *orgFlags) change(cmd *cobra.Command) (ch admin.OrganizationChange) {
	if cmd.Flags().Changed("public") {
		ch.Public = &f.public
	}
	if cmd.Flags().Changed("creation") {
		ch.Creation = &f.creation
	}
	return ch
}

func orgRows(o admin.Organization) [][2]string {
	return [][2]string{{"Name", o.Name}, {"Public", yes(o.Public)}, {"Repositories made by", o.Creation}, {"Created", expiryText(o.Created)}}
}

func newOrgAddCommand(m *management) *cobra.Command {
	var f orgFlags
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Make an organization", Args: exactArgs("NAME"),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			var o admin.Organization
			if err := m.call(cmd.Context(), http.MethodPost, "organizations", admin.NewOrganization{Name: args[0], OrganizationChange: f.change(cmd)}, &o); err != nil {
				return err
			}
			return m.show(cmd, o, orgRows(o)...)
		}),
	}
	f.add(cmd)
	return cmd
}

func newOrgListCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List organizations", Args: cobra.NoArgs,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			return listAll(cmd, m, "organizations", nil, []string{"NAME", "PUBLIC", "CREATION"}, func(o admin.Organization) []string {
				return []string{o.Name, orDash(yes(o.Public)), o.Creation}
			})
		}),
	}
}

func newOrgShowCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show an organization", Args: exactArgs("NAME"), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			var o admin.Organization
			if err := m.call(cmd.Context(), http.MethodGet, path("organizations", args[0]), nil, &o); err != nil {
				return err
			}
			return m.show(cmd, o, orgRows(o)...)
		}),
	}
}

func newOrgSetCommand(m *management) *cobra.Command {
	var f orgFlags
	cmd := &cobra.Command{
		Use: "set NAME", Short: "Change an organization", Args: exactArgs("NAME"), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			ch := f.change(cmd)
			if ch == (admin.OrganizationChange{}) {
				return usagef(cmd, "nothing to change was given")
			}
			var o admin.Organization
			if err := m.call(cmd.Context(), http.MethodPatch, path("organizations", args[0]), ch, &o); err != nil {
				return err
			}
			return m.show(cmd, o, orgRows(o)...)
		}),
	}
	f.add(cmd)
	return cmd
}
