package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

func newUserCommand() *cobra.Command {
	m := new(management)
	cmd := m.group("user", "Manage the accounts of people",
		newUserAddCommand(m), newUserListCommand(m), newUserShowCommand(m), newUserSetCommand(m), newUserPasswordCommand(m), newUserDeleteCommand(m))
	return cmd
}

func newUserAddCommand(m *management) *cobra.Command {
	var f accountFlags
	var stdin, none bool
	var setup string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make the account of a user",
		Long: `The password is asked for, or is the first line of standard input. With --setup, the
account is the first administrator of a server that has none; its log shows the secret for that.`,
		Example: `  berth user add alice --admin --data /var/lib/berth
  berth user add alice --admin --server https://registry.example.com --setup 4TQ2…
  pass show bob | berth user add bob --password-stdin`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ch, err := f.change(cmd)
			if err != nil {
				return err
			}
			if err := m.open(cmd, true); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, m.close()) }()
			n := admin.NewUser{Name: args[0], AccountChange: ch}
			if !none {
				if n.Password, err = readPassword(cmd, stdin, "Password of "+args[0]); err != nil {
					return err
				}
			}
			var u admin.User
			if setup != "" {
				m.login.Username, m.login.Password = "", ""
				err = m.call(cmd.Context(), http.MethodPost, "setup", admin.NewSetup{Token: setup, Name: n.Name, Password: n.Password}, &u)
			} else {
				err = m.call(cmd.Context(), http.MethodPost, "users", n, &u)
			}
			if err != nil {
				return err
			}
			return m.show(cmd, u, userRows(u)...)
		},
	}
	f.add(cmd.Flags(), false)
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().BoolVar(&none, "no-password", false, "make an account without a password, which can use tokens only")
	cmd.Flags().StringVar(&setup, "setup", "", "make the first administrator with the one-time `SECRET` of the server's log")
	cmd.MarkFlagsMutuallyExclusive("password-stdin", "no-password")
	cmd.MarkFlagsMutuallyExclusive("setup", "no-password")
	return cmd
}

func userRows(u admin.User) [][2]string {
	kept := u.Source
	if kept == "local" {
		kept = ""
	}
	return [][2]string{
		{"Name", u.Name}, {"Display name", u.DisplayName}, {"Mail", u.Mail}, {"Administrator", yes(u.Admin)}, {"Disabled", yes(u.Disabled)},
		{"Expires", expiryText(u.Expires)}, {"Networks", strings.Join(u.Networks, " ")}, {"Kept at", kept}, {"Password", yes(u.Password)},
		{"Created", expiryText(u.Created)}, {"Last signed in", expiryText(u.Seen)},
	}
}

func newUserListCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List users", Args: cobra.NoArgs,
		RunE: m.run(func(cmd *cobra.Command, _ []string) error {
			return listAll(cmd, m, "users", nil, []string{"NAME", "ADMIN", "DISABLED", "EXPIRES", "KEPT AT", "LAST SIGN-IN"}, func(u admin.User) []string {
				return []string{u.Name, orDash(yes(u.Admin)), orDash(yes(u.Disabled)), orDash(expiryText(u.Expires)), u.Source, seenText(u.Seen)}
			})
		}),
	}
}

func seenText(e admin.Expiry) string {
	if e.IsZero() {
		return "never"
	}
	return ageText(e.Time)
}

func newUserShowCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME]", Short: "Show a user, or who is signed in", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: complete(m, namesOf("users")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			var u admin.User
			if err := m.call(cmd.Context(), http.MethodGet, userPath(args), nil, &u); err != nil {
				return err
			}
			return m.show(cmd, u, userRows(u)...)
		}),
	}
}

// userPath is that of the user who is named first, or of who is signed in.
func userPath(args []string) string {
	if len(args) == 0 || args[0] == "" {
		return "account"
	}
	return path("users", args[0])
}

func newUserSetCommand(m *management) *cobra.Command {
	var f accountFlags
	cmd := &cobra.Command{
		Use: "set NAME", Short: "Change a user",
		Example: `  berth user set bob --disabled
  berth user set bob --admin=false --expires 90d --network 10.0.0.0/8`,
		Args: exactArgs("NAME"), ValidArgsFunction: complete(m, namesOf("users")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			ch, err := f.change(cmd)
			if err != nil {
				return err
			}
			if ch == (admin.AccountChange{}) {
				return usagef(cmd, "nothing to change was given")
			}
			var u admin.User
			if err := m.call(cmd.Context(), http.MethodPatch, path("users", args[0]), ch, &u); err != nil {
				return err
			}
			return m.show(cmd, u, userRows(u)...)
		}),
	}
	f.add(cmd.Flags(), false)
	return cmd
}

func newUserPasswordCommand(m *management) *cobra.Command {
	var stdin, none bool
	cmd := &cobra.Command{
		Use: "password [NAME]", Short: "Change a password",
		Long: `Without NAME it is your own, and the old one is needed too: with --password-stdin, the old one is the first line and the
new one the second. Whoever has signed in with the old one has to sign in again.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("users")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if none {
				if len(args) == 0 {
					return usagef(cmd, "NAME is missing")
				}
				return m.call(ctx, http.MethodDelete, path("users", args[0], "password"), nil, nil)
			}
			var p admin.NewPassword
			var err error
			switch {
			case len(args) > 0:
				p.Password, err = readPassword(cmd, stdin, "New password of "+args[0])
			case stdin:
				var lines []string
				if lines, err = readLines(cmd.InOrStdin(), 2); err == nil {
					p.Old, p.Password = lines[0], lines[1]
				}
			default:
				if p.Old, err = askSecret(cmd, "Old password"); err == nil {
					p.Password, err = readPassword(cmd, false, "New password")
				}
			}
			if err != nil {
				return err
			}
			if err := m.call(ctx, http.MethodPut, userPath(args)+"/password", p, nil); err != nil {
				return err
			}
			m.done(cmd, "The password is changed.")
			return nil
		}),
	}
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().BoolVar(&none, "remove", false, "leave the user without a password, with tokens only")
	cmd.MarkFlagsMutuallyExclusive("password-stdin", "remove")
	return cmd
}

func newUserDeleteCommand(m *management) *cobra.Command {
	return deleteCommand(m, "NAME", "Delete a user, with all tokens and grants", namesOf("users"), func(name string) string { return path("users", name) })
}

// deleteCommand deletes what is named.
func deleteCommand(m *management, what, short string, from choices, where func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "delete " + what, Aliases: []string{"rm"}, Short: short, Args: exactArgs(what), ValidArgsFunction: complete(m, from),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			if err := m.call(cmd.Context(), http.MethodDelete, where(args[0]), nil, nil); err != nil {
				return err
			}
			m.done(cmd, "%s is deleted.", args[0])
			return nil
		}),
	}
}
