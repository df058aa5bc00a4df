package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

func codeOf(s string) oci.Code { return oci.Code(upstream.Printable(s)) }

// parseExpiry reads when something expires: a time, a day, a time from now on, or never.
func parseExpiry(s string) (admin.Expiry, error) {
	if s == "never" {
		return admin.Expiry{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return admin.Expiry{Time: t}, nil
		}
	}
	if d, err := parseDuration(s); err == nil && d > 0 {
		return admin.Expiry{Time: time.Now().Add(d).Truncate(time.Second)}, nil
	}
	return admin.Expiry{}, fmt.Errorf("%q is not a time: write 90d, 24h, 2026-12-31, 2026-12-31T12:00:00Z or never", s)
}

// parseDuration reads a duration, of days too.
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	return time.ParseDuration(s)
}

// expiryText is the opposite of parseExpiry.
func expiryText(e admin.Expiry) string {
	if e.IsZero() {
		return ""
	}
	return e.UTC().Format(time.RFC3339)
}

// orDash shows in a table that there is nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return upstream.Printable(s)
}

// yes shows a truth value, no as nothing.
func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// readPassword reads a new password: from the terminal, twice and without echo, or the first line of standard input.
func readPassword(cmd *cobra.Command, stdin bool, what string) (string, error) {
	if stdin {
		lines, err := readLines(cmd.InOrStdin(), 1)
		if err != nil {
			return "", fmt.Errorf("--password-stdin: %w", err)
		}
		return lines[0], nil
	}
	first, err := askSecret(cmd, what)
	if err != nil {
		return "", err
	}
	again, err := askSecret(cmd, what+" again")
	if err == nil && first != again {
		err = errors.New("the passwords differ")
	}
	return first, err
}

// askSecret reads a line from the terminal without echo.
func askSecret(cmd *cobra.Command, what string) (string, error) {
	file, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return "", errors.New("there is no terminal to ask for the password: pass it with --password-stdin")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: ", what)
	b, err := term.ReadPassword(int(file.Fd()))
	fmt.Fprintln(cmd.ErrOrStderr())
	return string(b), err
}

// readLines reads n lines, the last of which need not end.
func readLines(r io.Reader, n int) ([]string, error) {
	in := bufio.NewReader(io.LimitReader(r, 64<<10))
	var lines []string
	for range n {
		line, err := in.ReadString('\n')
		if err != nil && (err != io.EOF || line == "") {
			return nil, fmt.Errorf("standard input has not the %d lines that are needed", n)
		}
		lines = append(lines, strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"))
	}
	return lines, nil
}

// accountFlags are those of users and robots.
type accountFlags struct {
	displayName, mail, expires string
	admin, disabled            bool
	networks                   []string
}

func (f *accountFlags) add(flags *pflag.FlagSet, robot bool) {
	flags.StringVar(&f.displayName, "display-name", "", "a `NAME` for people")
	flags.BoolVar(&f.disabled, "disabled", false, "let it sign in no more; --disabled=false undoes that")
	flags.StringVar(&f.expires, "expires", "", "let it sign in until `TIME`: 90d, 2026-12-31 or never")
	flags.StringSliceVar(&f.networks, "network", nil, "let it be used from this `NETWORK` only, such as 10.0.0.0/8; several with commas, \"\" for everywhere")
	if !robot {
		flags.StringVar(&f.mail, "mail", "", "its mail `ADDRESS`")
		flags.BoolVar(&f.admin, "admin", false, "let it administer the whole registry; --admin=false undoes that")
	}
}

// change returns what was given.
func (f *accountFlags) change(cmd *cobra.Command) (ch admin.AccountChange, err error) {
	flags := cmd.Flags()
	if flags.Changed("display-name") {
		ch.DisplayName = &f.displayName
	}
	if flags.Changed("mail") {
		ch.Mail = &f.mail
	}
	if flags.Changed("admin") {
		ch.Admin = &f.admin
	}
	if flags.Changed("disabled") {
		ch.Disabled = &f.disabled
	}
	if flags.Changed("network") {
		networks := append([]string{}, f.networks...)
		ch.Networks = &networks
	}
	if flags.Changed("expires") {
		at, err := parseExpiry(f.expires)
		if err != nil {
			return ch, usagef(cmd, "--expires: %w", err)
		}
		ch.Expires = &at
	}
	return ch, nil
}

// credentialFlags are those of tokens and secrets.
type credentialFlags struct {
	name, expires                   string
	actions, repositories, networks []string
	quiet                           bool
}

func (f *credentialFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.actions, "action", nil, "limit it to these `ACTIONS`, with commas: pull, push, overwrite, delete, admin (default all that the account may)")
	flags.StringArrayVar(&f.repositories, "repository", nil, "limit it to repositories that match `PATTERN`, such as team/**; may be repeated")
	flags.StringSliceVar(&f.networks, "network", nil, "limit it to this `NETWORK`, such as 10.0.0.0/8; several with commas")
	flags.StringVar(&f.expires, "expires", "never", "let it be valid until `TIME`: 90d, 2026-12-31 or never")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "print the secret alone")
	completeActions(cmd)
}

// completeActions completes --action.
func completeActions(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("action", cobra.FixedCompletions(actionNames(), cobra.ShellCompDirectiveNoFileComp)) // the flag is there
}

func (f *credentialFlags) credential(cmd *cobra.Command) (admin.NewCredential, error) {
	at, err := parseExpiry(f.expires)
	if err != nil {
		return admin.NewCredential{}, usagef(cmd, "--expires: %w", err)
	}
	return admin.NewCredential{Name: f.name, Actions: f.actions, Repositories: f.repositories, Networks: f.networks, Expires: at}, nil
}

// showSecret prints a credential that was made, with its secret, which nobody can see again.
func (m *management) showSecret(cmd *cobra.Command, c admin.Credential, quiet bool) error {
	if quiet && !m.json {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), c.Secret)
		return err
	}
	if !m.json {
		fmt.Fprintln(cmd.ErrOrStderr(), "This is the only time that the secret is shown.")
	}
	return m.show(cmd, c, append(credentialRows(c), [2]string{"Secret", c.Secret})...)
}

func credentialRows(c admin.Credential) [][2]string {
	return [][2]string{
		{"ID", strconv.FormatInt(c.ID, 10)},
		{"Name", c.Name},
		{"Account", c.Account},
		{"Actions", strings.Join(c.Actions, ", ")},
		{"Repositories", strings.Join(c.Repositories, " ")},
		{"Networks", strings.Join(c.Networks, " ")},
		{"Expires", expiryText(c.Expires)},
	}
}

var credentialHeader = []string{"ID", "KIND", "NAME", "ACTIONS", "REPOSITORIES", "EXPIRES", "USED"}

func credentialRow(c admin.Credential) []string {
	used := "never"
	if !c.Used.IsZero() {
		used = ageText(c.Used.Time) + " from " + c.UsedFrom
	}
	return []string{
		strconv.FormatInt(c.ID, 10), c.Kind, orDash(c.Name), strings.Join(c.Actions, ","), orDash(strings.Join(c.Repositories, " ")),
		orDash(expiryText(c.Expires)), upstream.Printable(used),
	}
}
