package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/server"
	"github.com/berthregistry/berth/internal/upstream"
)

// management is the API of a registry for who administers it: that of a server that runs, or of the data of one that does not.
type management struct {
	conn                   connection
	server                 string
	config, data, database string
	json                   bool

	http  *http.Client
	base  string // scheme and host, without a slash at the end
	host  string // that base has; empty for data that no server has
	login upstream.Credential
	close func() error
}

const managementHelp = `

The command works on a server that runs: --server, or $BERTH_REGISTRY, or ` + builtinRegistry + `. Credentials are those
that docker login and podman login keep for it, or $BERTH_USER and $BERTH_PASSWORD. With --data, --config or --database it works
on a registry's data instead, without credentials; the server must not run then, unless the database is PostgreSQL.`

// addFlags adds the flags that say which registry is meant.
func (m *management) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&m.server, "server", "", "manage the server at `URL` or HOST (default $BERTH_REGISTRY, or "+builtinRegistry+")")
	flags.StringVar(&m.data, "data", "", "manage the registry in `FOLDER`, which no server uses")
	flags.StringVar(&m.config, "config", "", "manage the registry of the configuration in `FILE`, which no server uses")
	flags.StringVar(&m.database, "database", "", "manage the registry in the PostgreSQL database of this `URL`, or file:PATH")
	flags.BoolVar(&m.json, "json", false, "print one JSON object on each line")
	m.conn.addFlags(flags)
}

// group returns a command that groups others, which share the flags of m.
func (m *management) group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	m.addFlags(cmd.PersistentFlags())
	addCommands(cmd, subs...)
	return cmd
}

// addCommands adds commands on a management, whose help says which registry they work on.
func addCommands(cmd *cobra.Command, subs ...*cobra.Command) {
	for _, sub := range subs {
		sub.Long = strings.TrimSuffix(sub.Short+".\n\n"+sub.Long, "\n\n") + managementHelp
	}
	cmd.AddCommand(subs...)
}

// run makes the RunE of a command.
func (m *management) run(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		if err := m.open(cmd, false); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.close()) }()
		return do(cmd, args)
	}
}

// open finds the registry; mayMake allows to make one in an empty folder.
func (m *management) open(cmd *cobra.Command, mayMake bool) error {
	m.close = func() error { return nil }
	if m.data != "" || m.config != "" || m.database != "" {
		if m.server != "" {
			return usagef(cmd, "--server means a server that runs, --data, --config and --database one that does not: give either")
		}
		return m.openLocal(cmd, mayMake)
	}
	return m.openRemote(cmd)
}

func (m *management) openLocal(cmd *cobra.Command, mayMake bool) error {
	places := server.Places{File: m.config, Env: os.Environ(), Flags: make(map[string]string)}
	for key, text := range map[string]string{"data": m.data, "database": m.database} {
		if text != "" {
			places.Flags[key] = text
		}
	}
	cfg, err := server.Load(places)
	if err != nil {
		return tellProblems(cmd, err)
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	transport, closeAll, err := server.OpenManagement(cmd.Context(), cfg, mayMake, log)
	if err != nil {
		return err
	}
	m.http, m.base, m.close = &http.Client{Transport: transport}, "http://localhost", closeAll
	return nil
}

func (m *management) openRemote(cmd *cobra.Command) error {
	host := m.server
	if host == "" {
		host = defaultRegistry()
	}
	scheme, rest, ok := strings.Cut(host, "://")
	if ok {
		host = strings.TrimSuffix(rest, "/")
		m.conn.plainHTTP = m.conn.plainHTTP || scheme == "http"
	}
	if ok && scheme != "http" && scheme != "https" || strings.Contains(host, "/") {
		return usagef(cmd, "--server: %q is not the URL of a server: write https://HOST or HOST", m.server)
	}
	client, err := m.conn.client(cmd.Context(), host)
	if err != nil {
		return err
	}
	m.base, m.host = client.Origin(), host
	if scheme == "https" && ok && !strings.HasPrefix(m.base, "https:") {
		return fmt.Errorf("%s does not speak TLS", host)
	}
	if m.login, err = credentialFor(cmd.Context(), host); err != nil {
		return err
	}
	m.close = func() error { client.Close(); return nil }
	m.http = &http.Client{
		Transport:     client.Connections(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// credentialFor returns what the environment or docker login says for a host.
func credentialFor(ctx context.Context, host string) (upstream.Credential, error) {
	if user, password := os.Getenv("BERTH_USER"), os.Getenv("BERTH_PASSWORD"); user != "" && password != "" {
		return upstream.Credential{Username: user, Password: password}, nil
	}
	stored, err := upstream.StoredCredentials()
	if err != nil {
		return upstream.Credential{}, err
	}
	c, err := stored(ctx, host)
	if c.IdentityToken != "" { // it tells by itself whose it is
		c = upstream.Credential{Username: "token", Password: c.IdentityToken}
	}
	return c, err
}

// refusal is an answer that is not what was asked for.
type refusal struct {
	host   string
	answer upstream.Error
}

// Error implements error: what the registry says, and what can be done about it.
func (r *refusal) Error() string {
	text := r.answer.Message
	if text == "" {
		text = r.answer.Error()
	}
	switch {
	case r.host == "":
		return text
	case r.answer.Status == http.StatusUnauthorized:
		text += fmt.Sprintf(": log in with \"docker login %s\", or set BERTH_USER and BERTH_PASSWORD", r.host)
	case r.answer.Status == http.StatusNotFound && r.answer.Code != "NOT_FOUND":
		text = "there is nothing to manage: it is no Berth"
	}
	return r.host + ": " + text
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 16 << 20

// send sends a body, if not nil, and returns the answer. The path is below admin.Prefix.
func (m *management) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, m.base+admin.Prefix+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if m.login.Username != "" || m.login.Password != "" {
		req.SetBasicAuth(m.login.Username, m.login.Password)
	}
	resp, err := m.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, &upstream.OpError{Host: m.host, Op: strings.ToLower(method) + " " + path, Err: err}
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	return nil, m.refused(resp, b)
}

// call sends in, if not nil, as JSON and reads the answer into out, if not nil.
func (m *management) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	resp, err := m.send(ctx, method, path, body)
	if err != nil || out == nil {
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	defer resp.Body.Close()
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != "application/json" {
		return fmt.Errorf("%s: its answer is not JSON: it is no Berth", m.host)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out)
}

func (m *management) refused(resp *http.Response, body []byte) error {
	r := &refusal{host: m.host, answer: upstream.Error{Status: resp.StatusCode}}
	var form struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &form) == nil && len(form.Errors) > 0 {
		r.answer.Code, r.answer.Message = codeOf(form.Errors[0].Code), form.Errors[0].Message
	}
	return r
}

// each yields the items of a list, page after page.
func each[T any](ctx context.Context, m *management, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		q := url.Values{"n": {"500"}}
		for k, v := range query {
			q[k] = v
		}
		for {
			var p admin.Page[T]
			if err := m.call(ctx, http.MethodGet, path+"?"+q.Encode(), nil, &p); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range p.Items {
				if !yield(item, nil) {
					return
				}
			}
			if p.Next == "" {
				return
			}
			q.Set("after", p.Next)
		}
	}
}

// listAll prints a list as a table or as lines of JSON.
func listAll[T any](cmd *cobra.Command, m *management, path string, query url.Values, header []string, row func(T) []string) error {
	out := cmd.OutOrStdout()
	enc, tab := json.NewEncoder(out), newTable(out, "", header...)
	for item, err := range each[T](cmd.Context(), m, path, query) {
		if err == nil && m.json {
			err = enc.Encode(item)
		} else if err == nil {
			err = tab.row(row(item)...)
		}
		if err != nil {
			return err
		}
	}
	if m.json {
		return nil
	}
	return tab.flush()
}

// show prints what has been asked for or made, as names with values or as JSON. Rows without a value are left out.
func (m *management) show(cmd *cobra.Command, v any, rows ...[2]string) error {
	out := cmd.OutOrStdout()
	if m.json {
		return json.NewEncoder(out).Encode(v)
	}
	width := 0
	for _, r := range rows {
		if r[1] != "" {
			width = max(width, len(r[0])+1)
		}
	}
	for _, r := range rows {
		if r[1] != "" {
			if _, err := fmt.Fprintf(out, "%-*s  %s\n", width, r[0]+":", upstream.Printable(r[1])); err != nil {
				return err
			}
		}
	}
	return nil
}

// done tells a person what has happened. A script has the exit code.
func (m *management) done(cmd *cobra.Command, format string, args ...any) {
	if !m.json {
		fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	}
}

// path joins parts of a path, each of which may hold anything.
func path(parts ...string) string {
	escaped := make([]string, len(parts))
	for i, p := range parts {
		escaped[i] = url.PathEscape(p)
	}
	return strings.Join(escaped, "/")
}

// complete makes the completion of an argument out of the names in a list; which returns its path, for the arguments before.
func complete(m *management, at int, which func(args []string) string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
		if len(args) < at || m.open(cmd, false) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer m.close()
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		var names []string
		for item, err := range each[struct{ Name string }](ctx, m, which(args), nil) {
			if err != nil || len(names) == 1000 {
				break
			}
			if strings.HasPrefix(item.Name, begin) {
				names = append(names, item.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// one makes the list to complete from, if it is always the same.
func one(path string) func([]string) string { return func([]string) string { return path } }
