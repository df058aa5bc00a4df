package main

import (
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

func newAuthCommand() *cobra.Command {
	m := new(management)
	return m.group("auth", "Find out why somebody may do something, or not", newAuthExplainCommand(m))
}

func newAuthExplainCommand(m *management) *cobra.Command {
	var tag, client string
	cmd := &cobra.Command{
		Use: "explain USER REPOSITORY ACTION", Short: "Tell whether an account may do something, why, and what would have to change",
		Long: `USER is a user or a robot, or "anonymous" for who has not signed in. Everybody may ask about themselves, others who
administers the organization.`,
		Example: `  berth auth explain alice team/app push
  berth auth explain team+ci team/app overwrite --tag v1.0
  berth auth explain anonymous team/app pull`,
		Args: exactArgs("USER", "REPOSITORY", "ACTION"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return complete(m, accountNames)(cmd, args, begin)
			case 2:
				return actionNames(), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			query := url.Values{"account": {args[0]}, "repository": {args[1]}, "action": {args[2]}}
			if tag != "" {
				query.Set("tag", tag)
			}
			if client != "" {
				query.Set("client", client)
			}
			var e admin.Explanation
			if err := m.call(cmd.Context(), http.MethodGet, "explain?"+query.Encode(), nil, &e); err != nil {
				return err
			}
			answer := "no"
			if e.Allowed {
				answer = "yes"
			}
			return m.show(cmd, e, [2]string{"Allowed", answer}, [2]string{"Because", e.Rule}, [2]string{"To change that", e.Change})
		}),
	}
	cmd.Flags().StringVar(&tag, "tag", "", "the `TAG` that is pushed, overwritten or deleted")
	cmd.Flags().StringVar(&client, "client", "", "the `ADDRESS` that the account is used from (default your own)")
	return cmd
}
