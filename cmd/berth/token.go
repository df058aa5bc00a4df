package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

func newTokenCommand() *cobra.Command {
	m := new(management)
	return m.group("token", "Manage personal access tokens", newTokenAddCommand(m), newTokenListCommand(m), newTokenRevokeCommand(m))
}

func newTokenAddCommand(m *management) *cobra.Command {
	var f credentialFlags
	var user string
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Make a personal access token, which stands for your password",
		Long: "A token may do what its account may, or less. NAME is for you to recognise it.",
		Example: `  berth token add laptop
  berth token add ci --action pull,push --repository team/** --expires 90d --quiet
  berth token add laptop --user alice --data /var/lib/berth`,
		Args: exactArgs("NAME"),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			f.name = args[0]
			n, err := f.credential(cmd)
			if err != nil {
				return err
			}
			var c admin.Credential
			if err := m.call(cmd.Context(), http.MethodPost, userPath([]string{user})+"/tokens", n, &c); err != nil {
				return err
			}
			return m.showSecret(cmd, c, f.quiet)
		}),
	}
	f.add(cmd)
	addUserFlag(m, cmd, &user)
	return cmd
}

func addUserFlag(m *management, cmd *cobra.Command, user *string) {
	cmd.Flags().StringVar(user, "user", "", "of the user `NAME`, who need not be you if you administer the registry")
	completeFlag(m, cmd, "user", namesOf("users"))
}

func newTokenListCommand(m *management) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List tokens", Long: "Those of the kind refresh are what docker login keeps in the place of a password, those of the kind sign-in what a sign-in at a provider has brought.",
		Args: cobra.NoArgs,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			return listAll(cmd, m, userPath([]string{user})+"/tokens", nil, credentialHeader, credentialRow)
		}),
	}
	addUserFlag(m, cmd, &user)
	return cmd
}

func newTokenRevokeCommand(m *management) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "Take a token away, at once", Args: exactArgs("ID"),
		ValidArgsFunction: complete(m, func([]string, string) (string, string) { return userPath([]string{user}) + "/tokens", "" }),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			return m.revoke(cmd, userPath([]string{user})+"/"+path("tokens", args[0]), args[0])
		}),
	}
	addUserFlag(m, cmd, &user)
	return cmd
}

func (m *management) revoke(cmd *cobra.Command, path, id string) error {
	if err := m.call(cmd.Context(), http.MethodDelete, path, nil, nil); err != nil {
		return err
	}
	m.done(cmd, "%s is revoked.", id)
	return nil
}
