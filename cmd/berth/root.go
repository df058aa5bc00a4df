package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "berth",
		Short: "A container registry, and a command line for any registry",
		Long: `Berth is a container registry: "berth serve" runs it.

The other commands work on a running registry, Berth or any other, over HTTP. A repository
is named HOST/NAME or HOST:PORT/NAME, and NAME alone is looked for at the default
registry: BERTH_REGISTRY, or ` + builtinRegistry + `. What comes before the first '/' is a
host if it has a '.' or a ':', or is "localhost". Credentials are those that docker login
and podman login keep.`,
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
	}
	root.AddCommand(
		newServeCommand(),
		newConfigCommand(),
		newCertCommand(),
		newRepoCommand(),
		newTagCommand(),
		newManifestCommand(),
		newCopyCommand(),
		newHistoryCommand(),
		newUndeleteCommand(),
		newTrashCommand(),
		newDeleteCommand(),
		newFsckCommand(),
		newGCCommand(),
		newScrubCommand(),
		newMoveCommand(),
		newBackupCommand(),
		newRestoreCommand(),
		newRebuildCommand(),
		newLoginCommand(),
		newUserCommand(),
		newTokenCommand(),
		newRobotCommand(),
		newTrustCommand(),
		newOrgCommand(),
		newTeamCommand(),
		newGrantCommand(),
		newAuthCommand(),
		newCredentialCommand(),
		newAuditCommand(),
		newRetentionCommand(),
		newFreezeCommand(),
		newUnfreezeCommand(),
		newQuotaCommand(),
		newDuCommand(),
		newVersionCommand(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	tellUsage(root)
	return root
}

// usageError is a mistake in how a command was called.
type usageError struct {
	command string // the path of it, such as "berth tag ls"
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usagef returns a usageError.
func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd.CommandPath(), fmt.Errorf(format, args...)}
}

// tellUsage makes cmd and everything below it report mistakes in their arguments
// as usageErrors. A command that only groups others prints its help, and refuses what
// it does not know.
func tellUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{cmd.CommandPath(), err}
	})
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{cmd.CommandPath(), err}
			}
			return nil
		}
	}
	if !cmd.Runnable() && cmd.HasSubCommands() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := ""
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				hint = fmt.Sprintf(", did you mean %q?", s[0])
			}
			return usagef(cmd, "there is no command %q%s", args[0], hint)
		}
	}
	for _, sub := range cmd.Commands() {
		tellUsage(sub)
	}
}

// exactArgs is cobra.ExactArgs with an error that names what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("%q is one argument too many", args[len(names)])
		}
		return nil
	}
}
