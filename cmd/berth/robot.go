package main

import (
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

func newRobotCommand() *cobra.Command {
	m := new(management)
	cmd := m.group("robot", "Manage the accounts of programs",
		newRobotAddCommand(m), newRobotListCommand(m), newRobotShowCommand(m), newRobotSetCommand(m),
		deleteCommand(m, "[ORG+]NAME", "Delete a robot, with its secrets and grants", robotNames, func(name string) string { return robotPath(name) }))
	secret := &cobra.Command{Use: "secret", Short: "Manage the secrets of robots"}
	addCommands(secret, newSecretAddCommand(m), newSecretListCommand(m), newSecretRevokeCommand(m), newSecretRotateCommand(m))
	cmd.AddCommand(secret)
	return cmd
}

// robotPath is that of a robot: of an organization, for ORG+NAME, or of the registry.
func robotPath(name string, more ...string) string {
	if organization, name, ok := strings.Cut(name, "+"); ok {
		return path(append([]string{"organizations", organization, "robots", name}, more...)...)
	}
	return path(append([]string{"robots", name}, more...)...)
}

func newRobotAddCommand(m *management) *cobra.Command {
	var f accountFlags
	cmd := &cobra.Command{
		Use: "add [ORG+]NAME", Short: "Make a robot, of an organization or of the registry",
		Long:    "It may do nothing until it has a grant, and signs in with a secret.",
		Example: "  berth robot add team+ci\n  berth robot secret add team+ci --quiet",
		Args:    exactArgs("NAME"),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			ch, err := f.change(cmd)
			if err != nil {
				return err
			}
			n := admin.NewRobot{Name: args[0], AccountChange: ch}
			where := "robots"
			if organization, name, ok := strings.Cut(args[0], "+"); ok {
				n.Name, where = name, path("organizations", organization, "robots")
			}
			var r admin.Robot
			if err := m.call(cmd.Context(), http.MethodPost, where, n, &r); err != nil {
				return err
			}
			return m.show(cmd, r, robotRows(r)...)
		}),
	}
	f.add(cmd.Flags(), true)
	return cmd
}

func robotRows(r admin.Robot) [][2]string {
	return [][2]string{
		{"Name", r.Name}, {"Organization", r.Organization}, {"Display name", r.DisplayName}, {"Disabled", yes(r.Disabled)}, {"Expires", expiryText(r.Expires)},
		{"Networks", strings.Join(r.Networks, " ")}, {"Created", expiryText(r.Created)}, {"Last signed in", expiryText(r.Seen)},
	}
}

func newRobotListCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "list [ORG]", Aliases: []string{"ls"}, Short: "List the robots of an organization, or all", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			where := "robots"
			if len(args) > 0 {
				where = path("organizations", args[0], "robots")
			}
			return listAll(cmd, m, where, nil, []string{"NAME", "DISABLED", "EXPIRES", "LAST SIGN-IN", "DISPLAY NAME"}, func(r admin.Robot) []string {
				return []string{r.Name, orDash(yes(r.Disabled)), orDash(expiryText(r.Expires)), seenText(r.Seen), orDash(r.DisplayName)}
			})
		}),
	}
}

func newRobotShowCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "show [ORG+]NAME", Short: "Show a robot", Args: exactArgs("NAME"), ValidArgsFunction: complete(m, robotNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			var r admin.Robot
			if err := m.call(cmd.Context(), http.MethodGet, robotPath(args[0]), nil, &r); err != nil {
				return err
			}
			return m.show(cmd, r, robotRows(r)...)
		}),
	}
}

func newRobotSetCommand(m *management) *cobra.Command {
	var f accountFlags
	cmd := &cobra.Command{
		Use: "set [ORG+]NAME", Short: "Change a robot", Args: exactArgs("NAME"), ValidArgsFunction: complete(m, robotNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			ch, err := f.change(cmd)
			if err != nil {
				return err
			}
			if ch == (admin.AccountChange{}) {
				return usagef(cmd, "nothing to change was given")
			}
			var r admin.Robot
			if err := m.call(cmd.Context(), http.MethodPatch, robotPath(args[0]), ch, &r); err != nil {
				return err
			}
			return m.show(cmd, r, robotRows(r)...)
		}),
	}
	f.add(cmd.Flags(), true)
	return cmd
}

func newSecretAddCommand(m *management) *cobra.Command {
	var f credentialFlags
	cmd := &cobra.Command{
		Use: "add [ORG+]NAME", Short: "Give a robot a secret to sign in with",
		Args: exactArgs("NAME"), ValidArgsFunction: complete(m, robotNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			n, err := f.credential(cmd)
			if err != nil {
				return err
			}
			var c admin.Credential
			if err := m.call(cmd.Context(), http.MethodPost, robotPath(args[0], "secrets"), n, &c); err != nil {
				return err
			}
			return m.showSecret(cmd, c, f.quiet)
		}),
	}
	cmd.Flags().StringVar(&f.name, "name", "", "a `NAME` to recognise it by")
	f.add(cmd)
	return cmd
}

func newSecretListCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "list [ORG+]NAME", Aliases: []string{"ls"}, Short: "List the secrets of a robot", Args: exactArgs("NAME"), ValidArgsFunction: complete(m, robotNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			return listAll(cmd, m, robotPath(args[0], "secrets"), nil, credentialHeader, credentialRow)
		}),
	}
}

func newSecretRevokeCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "revoke [ORG+]NAME ID", Short: "Take a secret away, at once", Args: exactArgs("NAME", "ID"), ValidArgsFunction: complete(m, robotNames, idsOf("secrets")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			return m.revoke(cmd, robotPath(args[0], "secrets", args[1]), args[1])
		}),
	}
}

func newSecretRotateCommand(m *management) *cobra.Command {
	var overlap, expires string
	var quiet bool
	cmd := &cobra.Command{
		Use: "rotate [ORG+]NAME", Short: "Give a robot a new secret, and let the old ones expire",
		Long:    "The new one is limited as the newest old one is.",
		Example: "  berth robot secret rotate team+ci --overlap 1h --quiet",
		Args:    exactArgs("NAME"), ValidArgsFunction: complete(m, robotNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			d, err := parseDuration(overlap)
			if err != nil || d < 0 {
				return usagef(cmd, "--overlap: %q is no duration: write 24h, 7d or 0s", overlap)
			}
			at, err := parseExpiry(expires)
			if err != nil {
				return usagef(cmd, "--expires: %w", err)
			}
			var c admin.Credential
			r := admin.Rotation{Overlap: &admin.Overlap{Duration: d}, Expires: at}
			if err := m.call(cmd.Context(), http.MethodPost, robotPath(args[0], "secrets", "rotate"), r, &c); err != nil {
				return err
			}
			return m.showSecret(cmd, c, quiet)
		}),
	}
	cmd.Flags().StringVar(&overlap, "overlap", "24h", "let the old secrets be valid for this `DURATION` yet")
	cmd.Flags().StringVar(&expires, "expires", "never", "let the new one be valid until `TIME`: 90d, 2026-12-31 or never")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the secret alone")
	return cmd
}
