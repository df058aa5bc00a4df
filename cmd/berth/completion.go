package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// choices says which list an argument is completed from: its path, for the arguments before and what has been typed, and what comes before
// the names in it. Without a path there is none.
type choices func(args []string, begin string) (path, before string)

// maxChoices is how many are offered at most.
const maxChoices = 1000

// complete makes the completion of arguments, the first one from the first list. Arguments beyond the lists have none.
func complete(m *management, lists ...choices) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(lists) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, before := lists[len(args)](args, begin)
		if list == "" || m.open(cmd, false) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer m.close()
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		directive := cobra.ShellCompDirectiveNoFileComp
		if strings.HasSuffix(list, "/") { // of names that another one follows
			list, directive = strings.TrimSuffix(list, "/"), directive|cobra.ShellCompDirectiveNoSpace
		}
		var found []string
		for item, err := range each[choice](ctx, m, list, nil) {
			if err != nil || len(found) == maxChoices {
				break
			}
			text := before + item.text()
			if directive&cobra.ShellCompDirectiveNoSpace != 0 {
				text += "/"
			}
			if strings.HasPrefix(text, begin) {
				found = append(found, text)
			}
		}
		return found, directive
	}
}

// completeFlag is complete for a flag, which does not depend on arguments.
func completeFlag(m *management, cmd *cobra.Command, flag string, list choices) {
	of := complete(m, list)
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, begin string) ([]string, cobra.ShellCompDirective) {
		return of(cmd, nil, begin)
	}) // the flag is there
}

// choice is an item of any list: what has a name, or a number and something to recognise it by.
type choice struct {
	ID                                int64
	Name, Kind, Issuer, Account, Team string
}

func (c *choice) text() string {
	if c.ID == 0 {
		return c.Name
	}
	text := strconv.FormatInt(c.ID, 10)
	for _, what := range []string{c.Issuer, c.Team, c.Name, c.Kind, c.Account} {
		if what != "" {
			return text + "\t" + what // which shells show beside it
		}
	}
	return text
}

// namesOf is a list that is always the same.
func namesOf(list string) choices {
	return func([]string, string) (string, string) { return list, "" }
}

// accountNames are users, or the robots of the organization whose name has been typed.
func accountNames(args []string, begin string) (string, string) {
	if strings.Contains(begin, "+") {
		return robotNames(args, begin)
	}
	return "users", ""
}

// robotNames are those of the organization whose name has been typed, or all.
func robotNames(_ []string, begin string) (string, string) {
	if organization, _, ok := strings.Cut(begin, "+"); ok {
		return path("organizations", organization, "robots"), ""
	}
	return "robots", ""
}

// teamNames are those of the organization whose name has been typed; before that, organizations.
func teamNames(_ []string, begin string) (string, string) {
	if organization, _, ok := strings.Cut(begin, "/"); ok {
		return path("organizations", organization, "teams"), organization + "/"
	}
	return "organizations/", ""
}

// idsOf are the numbers of what the robot has that the first argument names.
func idsOf(what string) choices {
	return func(args []string, _ string) (string, string) { return robotPath(args[0], what), "" }
}
