package main

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

// scopePath returns the path of what belongs to an organization, or to the whole registry if there is no argument.
func scopePath(args []string, noun string) string {
	if len(args) == 0 {
		return noun
	}
	return path("organizations", args[0], noun)
}

// scopeName names an organization, or the whole registry.
func scopeName(organization string) string {
	if organization == "" {
		return "the registry"
	}
	return organization
}

func newTagProtectCommand() *cobra.Command {
	m := new(management)
	var n admin.NewProtection
	cmd := &cobra.Command{
		Use: "protect [ORG]", Short: "Keep tags as they are: once set, they neither move nor go",
		Long: `Keep tags as they are, in an organization (the first part of repositories' names) or in all: once set, such a tag cannot be pointed to something else, and neither it nor
the manifest that it points to can be deleted, whoever wants to. To push the same manifest again is fine.

Patterns of tags are a glob (v1.*), regex:EXPRESSION for the whole tag, semver for any semantic version, with or without a v, or
semver:CONSTRAINT. A ! before a pattern makes an exception. A constraint matches pre-releases only if it names one.`,
		Example: `  berth tag protect team --tag semver
  berth tag protect team --repository 'team/app/**' --tag 'semver:>=1.0' --tag '!1.2.3'
  berth tag protect --tag 'regex:release-[0-9]{8}'`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			if len(n.Tags) == 0 {
				return usagef(cmd, "--tag is missing: '*' stands for all tags")
			}
			var p admin.Protection
			if err := m.call(cmd.Context(), http.MethodPost, scopePath(args, "protections"), n, &p); err != nil {
				return err
			}
			return m.show(cmd, p, [2]string{"ID", strconv.FormatInt(p.ID, 10)}, [2]string{"In", scopeName(p.Organization)},
				[2]string{"Repositories", strings.Join(p.Repositories, " ")}, [2]string{"Tags", strings.Join(p.Tags, " ")})
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&n.Repositories, "repository", nil, "in repositories that match `PATTERN`, such as team/app/**, or !team/base; may be repeated (default all)")
	flags.StringArrayVar(&n.Tags, "tag", nil, "tags that match `PATTERN`, such as v1.*, semver, or !latest; may be repeated")
	m.addFlags(flags)
	addHelp(cmd)
	return cmd
}

func newTagProtectionsCommand() *cobra.Command {
	m := new(management)
	cmd := &cobra.Command{
		Use: "protections [ORG]", Short: "List which tags are kept as they are, in an organization or by a rule for all",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			return listAll(cmd, m, scopePath(args, "protections"), nil, []string{"ID", "IN", "REPOSITORIES", "TAGS", "BY", "SINCE"}, func(p admin.Protection) []string {
				return []string{strconv.FormatInt(p.ID, 10), scopeName(p.Organization), orDash(strings.Join(p.Repositories, " ")),
					orDash(strings.Join(p.Tags, " ")), p.By, ageText(p.Created.Time)}
			})
		}),
	}
	m.addFlags(cmd.Flags())
	addHelp(cmd)
	return cmd
}

func newTagUnprotectCommand() *cobra.Command {
	m := new(management)
	cmd := &cobra.Command{
		Use: "unprotect [ORG] ID", Short: "Remove a rule of \"berth tag protect\"",
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			id := args[len(args)-1]
			if err := m.call(cmd.Context(), http.MethodDelete, scopePath(args[:len(args)-1], "protections")+"/"+path(id), nil, nil); err != nil {
				return err
			}
			m.done(cmd, "Protection %s is removed.", id)
			return nil
		}),
	}
	m.addFlags(cmd.Flags())
	addHelp(cmd)
	return cmd
}

func newFreezeCommand() *cobra.Command {
	m := new(management)
	var n admin.NewFreeze
	var list bool
	cmd := &cobra.Command{
		Use: "freeze [ORG]", Short: "Make the registry, or an organization, read-only at once",
		Long: `Make the registry, or an organization (the first part of repositories' names), read-only at once, on all nodes: when the command returns, no manifest and no tag changes any more.
Who pushes or deletes is told the message; pulls go on. Blobs whose upload had begun may still arrive; nobody sees them. What is garbage already is
still collected. To freeze again changes the message.`,
		Example: `  berth freeze --message 'moving to the new machines until 18:00'
  berth freeze team
  berth freeze --list`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			if list {
				if len(args) > 0 || n.Message != "" {
					return usagef(cmd, "--list shows all: leave out the rest")
				}
				return listAll(cmd, m, "freezes", nil, []string{"FROZEN", "SINCE", "BY", "MESSAGE"}, func(f admin.Freeze) []string {
					return []string{scopeName(f.Organization), ageText(f.Since.Time), f.By, orDash(f.Message)}
				})
			}
			var f admin.Freeze
			if err := m.call(cmd.Context(), http.MethodPut, scopePath(args, "freeze"), n, &f); err != nil {
				return err
			}
			return m.show(cmd, f, [2]string{"Frozen", scopeName(f.Organization)}, [2]string{"Message", f.Message})
		}),
	}
	flags := cmd.Flags()
	flags.StringVarP(&n.Message, "message", "m", "", "tell who wants to change something this `TEXT`")
	flags.BoolVar(&list, "list", false, "list what is frozen")
	m.addFlags(flags)
	addHelp(cmd)
	return cmd
}

func newUnfreezeCommand() *cobra.Command {
	m := new(management)
	cmd := &cobra.Command{
		Use: "unfreeze [ORG]", Short: "End a freeze",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			if err := m.call(cmd.Context(), http.MethodDelete, scopePath(args, "freeze"), nil, nil); err != nil {
				return err
			}
			what := ""
			if len(args) > 0 {
				what = args[0]
			}
			m.done(cmd, "%s is not frozen any more.", scopeName(what))
			// An organization may be frozen with the whole registry.
			var all admin.Freeze
			err := m.call(cmd.Context(), http.MethodGet, "freeze", nil, &all)
			if what != "" && err == nil {
				m.done(cmd, "But the whole registry is frozen: berth unfreeze")
			}
			if r, ok := errors.AsType[*refusal](err); ok && r.answer.Status/100 == 4 {
				err = nil
			}
			return err
		}),
	}
	m.addFlags(cmd.Flags())
	addHelp(cmd)
	return cmd
}

// addHelp adds to a command's help which registry it works on.
func addHelp(cmd *cobra.Command) {
	if cmd.Long == "" {
		cmd.Long = fmt.Sprintf("%s.", cmd.Short)
	}
	cmd.Long += managementHelp
}
