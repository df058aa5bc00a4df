package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

func newRepoVisibilityCommand() *cobra.Command {
	m := new(management)
	settings := []string{string(admin.Public), string(admin.Private), string(admin.Inherit)}
	cmd := &cobra.Command{
		Use: "visibility REPO [public|private|inherit]", Short: "Show or say whether everybody may pull from a repository",
		Long: "Show or say whether everybody may pull from a repository, without signing in. inherit leaves it to the organization." + managementHelp,
		Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return settings, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseReference(args[0], "")
			switch {
			case err != nil:
				return usagef(cmd, "%w", err)
			case !ref.bare():
				return usagef(cmd, "%q names one manifest: leave out its tag or digest", args[0])
			case ref.host != "" && m.server != "":
				return usagef(cmd, "%q and --server both name a registry", args[0])
			case ref.host != "":
				m.server = ref.host
			}
			return m.run(func(cmd *cobra.Command, args []string) error {
				where := "repositories/" + string(ref.name)
				if len(args) == 2 {
					if err := m.call(cmd.Context(), http.MethodPut, where, admin.RepositoryChange{Visibility: admin.Visibility(args[1])}, nil); err != nil {
						return err
					}
				}
				var r admin.Repository
				if err := m.call(cmd.Context(), http.MethodGet, where, nil, &r); err != nil {
					return err
				}
				seen := "private"
				if r.Public {
					seen = "public"
				}
				setting := string(r.Visibility)
				if r.Visibility == admin.Inherit {
					setting = fmt.Sprintf("%s: %s", admin.Inherit, seen)
				}
				return m.show(cmd, r, [2]string{"Name", r.Name}, [2]string{"Visibility", setting})
			})(cmd, args)
		},
	}
	m.addFlags(cmd.Flags())
	return cmd
}
