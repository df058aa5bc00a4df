package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newRepoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repo",
		Short: "Work with the repositories of a registry",
	}
	cmd.AddCommand(newRepoListCommand(), newRepoVisibilityCommand(), newRepoDeleteCommand())
	return cmd
}

func newRepoListCommand() *cobra.Command {
	var (
		conn     connection
		registry string
		asJSON   bool
	)
	cmd := &cobra.Command{
		Use:     "ls [HOST/][PREFIX]",
		Aliases: []string{"list"},
		Short:   "List repositories",
		Long: `List the repositories of a registry, one on each line: all of them, or those whose names
begin with PREFIX. A PREFIX that ends in '/' is a namespace.

Not every registry lists its repositories; Docker Hub and most other public ones do not.`,
		Example: `  berth repo ls
  berth repo ls team/
  berth repo ls registry.example.com/team/
  berth repo ls --registry registry.example.com --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			if first, rest, ok := strings.Cut(prefix, "/"); ok && isHost(first) {
				if registry != "" && registry != first {
					return usagef(cmd, "%q and --registry name different registries", args[0])
				}
				registry, prefix = first, rest
			}
			if registry == "" {
				registry = defaultRegistry()
			}
			ctx := cmd.Context()
			client, err := conn.client(ctx, registry)
			if err != nil {
				return err
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			defer out.Flush()
			enc := json.NewEncoder(out)
			for name, err := range client.Repositories(ctx) {
				if err != nil {
					return err
				}
				if !strings.HasPrefix(string(name), prefix) {
					continue
				}
				if asJSON {
					err = enc.Encode(struct {
						Repository string `json:"repository"`
					}{string(name)})
				} else {
					_, err = fmt.Fprintln(out, name)
				}
				if err != nil {
					return err
				}
			}
			return out.Flush()
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&registry, "registry", "", "ask the registry at `HOST` (default $BERTH_REGISTRY, or "+builtinRegistry+")")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object on each line")
	conn.addFlags(flags)
	return cmd
}
