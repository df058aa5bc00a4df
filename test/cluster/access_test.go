package cluster

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// guarded is a cluster with access control, an administrator of it, and the organization team, in which alice is a writer.
type guarded struct {
	*cluster
	database *service.Database
}

const password = "a good password"

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	database := service.Postgres(t)
	g := &guarded{start(t, options{database: database, env: []string{"BERTH_AUTH_ENABLED=true"}}), database}
	t.Cleanup(func() {
		for i, n := range g.nodes {
			if strings.Contains(n.Log(), password) || strings.Contains(n.Log(), "berth_bot_") {
				t.Errorf("there is a secret in the log of node %d", i)
			}
		}
	})
	g.setUp()
	// On the database itself, while nodes serve.
	local := exec.CommandContext(t.Context(), harness.Binary(t), "user", "add", "alice", "--password-stdin", "--config", g.config)
	local.Stdin = strings.NewReader(password + "\n")
	if out, err := local.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	g.manage(1, "", "org", "add", "team")
	g.manage(2, "", "grant", "add", "team", "--user", "alice", "--role", "writer")
	return g
}

// setUp makes the first account at one node, with the one-time secret that another one has told.
func (g *guarded) setUp() {
	g.t.Helper()
	told := regexp.MustCompile(`--setup ([A-Z0-9]+)`)
	var secrets []string
	for i, n := range g.nodes {
		wait(g.t, fmt.Sprintf("node %d tells how the first account is made", i), func() bool { return told.MatchString(n.Log()) })
		secrets = append(secrets, told.FindStringSubmatch(n.Log())[1])
	}
	if len(slices.Compact(slices.Clone(secrets))) != 1 {
		g.t.Errorf("the nodes tell different secrets: %q", secrets)
	}
	g.manage(1, password, "user", "add", "root", "--admin", "--password-stdin", "--setup", secrets[0])
	for i := range g.nodes {
		if out, err := g.tryManage(i, password, "user", "add", "second", "--admin", "--password-stdin", "--setup", secrets[2]); err == nil {
			g.t.Errorf("node %d takes the secret again: %s", i, out)
		}
	}
}

// manage runs a command of the binary as the administrator, at one node, and returns what it prints.
func (g *guarded) manage(node int, stdin string, args ...string) string {
	g.t.Helper()
	out, err := g.tryManage(node, stdin, args...)
	if err != nil {
		g.t.Fatalf("berth %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (g *guarded) tryManage(node int, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(g.t.Context(), harness.Binary(g.t), append(args, "--server", g.nodes[node%nodes].URL)...)
	cmd.Env = append(os.Environ(), "BERTH_USER=root", "BERTH_PASSWORD="+password)
	cmd.Stdin = strings.NewReader(stdin + "\n")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s%s", err, &out, &errs)
	}
	return strings.TrimSpace(out.String()), nil
}

func basic(name, secret string) harness.Header {
	return harness.Header{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+secret))}
}

// bearer gets a token at one node.
func (g *guarded) bearer(node int, credential harness.Header, scope string) harness.Header {
	g.t.Helper()
	resp := g.at(node).Expect(http.StatusOK, "GET", "/token?service=berth&scope="+scope, nil, credential)
	var answer struct{ Token string }
	if err := json.Unmarshal(resp.Bytes, &answer); err != nil || answer.Token == "" {
		g.t.Fatalf("%v in %s", err, resp.Bytes)
	}
	return harness.Header{"Authorization": "Bearer " + answer.Token}
}

const teamScope = "repository:team/app:pull,push"

// push pushes an image to team/app:1.
func (g *guarded) push(credential harness.Header) {
	g.t.Helper()
	image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, []byte("{}")))
	for i, b := range image.Blobs {
		location := g.at(i).Expect(http.StatusAccepted, "POST", "/v2/team/app/blobs/uploads/", []byte{}, credential).Path()
		g.at(i+1).Expect(http.StatusCreated, "PUT", harness.WithDigest(location, b.Digest.String()), b.Bytes, credential)
	}
	g.at(2).Expect(http.StatusCreated, "PUT", "/v2/team/app/manifests/1", image.Manifest.Bytes, credential, harness.Header{"Content-Type": image.Manifest.MediaType})
}

// What one node takes away, no other one allows with its next request: rights, accounts, credentials and passwords, for those who come with a
// password, a secret or a token that any node has issued and all nodes have verified before.
func TestWhatIsTakenAwayIsGoneOnAllNodes(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	alice := basic("alice", password)
	g.push(alice)
	visible := func(what string, status int, credentials ...harness.Header) {
		t.Helper()
		for n := range nodes {
			for i, c := range credentials {
				// The first request after the change, and those after it.
				for range 2 {
					if resp := g.at(n).Do("HEAD", "/v2/team/app/manifests/1", nil, c); resp.StatusCode != status {
						t.Errorf("%s: node %d answers credential %d with %d, expected %d", what, n, i, resp.StatusCode, status)
					}
				}
			}
		}
	}
	// Each account is made, used everywhere, and loses something at one node.
	for i, tt := range []struct {
		name   string
		status int
		take   func(node int, robot string)
	}{
		{"the grant", 404, func(node int, robot string) {
			var grant struct{ ID int64 }
			if err := json.Unmarshal([]byte(g.manage(node, "", "grant", "list", "--robot", robot, "--json")), &grant); err != nil {
				t.Fatal(err)
			}
			g.manage(node, "", "grant", "remove", "team", fmt.Sprint(grant.ID))
		}},
		{"the secret", 401, func(node int, robot string) {
			var secret struct{ ID int64 }
			if err := json.Unmarshal([]byte(g.manage(node, "", "robot", "secret", "list", robot, "--json")), &secret); err != nil {
				t.Fatal(err)
			}
			g.manage(node, "", "robot", "secret", "revoke", robot, fmt.Sprint(secret.ID))
		}},
		{"the robot", 401, func(node int, robot string) { g.manage(node, "", "robot", "delete", robot) }},
		{"its use", 401, func(node int, robot string) { g.manage(node, "", "robot", "set", robot, "--disabled") }},
		{"its time", 401, func(node int, robot string) { g.manage(node, "", "robot", "set", robot, "--expires", "2020-01-01") }},
		{"its network", 401, func(node int, robot string) { g.manage(node, "", "robot", "set", robot, "--network", "192.0.2.0/24") }},
	} {
		robot := fmt.Sprint("team+r", i)
		g.manage(i, "", "robot", "add", robot)
		g.manage(i+1, "", "grant", "add", "team", "--robot", robot, "--role", "writer")
		secret := basic(robot, g.manage(i+2, "", "robot", "secret", "add", robot, "--quiet"))
		credentials := []harness.Header{secret}
		for n := range nodes {
			credentials = append(credentials, g.bearer(n, secret, teamScope))
		}
		visible(tt.name+", before", 200, credentials...)
		tt.take(i, robot)
		visible(tt.name, tt.status, credentials...)
	}

	token := g.bearer(0, alice, teamScope)
	visible("the password, before", 200, alice, token)
	g.manage(1, "another good password", "user", "password", "alice", "--password-stdin")
	visible("the password", 401, alice, token)
	g.exec("DELETE FROM sign_in_failure") // in the place of time: so many wrong passwords lock the account for a while
	alice = basic("alice", "another good password")
	visible("the new password", 200, alice)

	anonymous := harness.Header{}
	g.manage(2, "", "repo", "visibility", "team/app", "public")
	visible("public", 200, anonymous, g.bearer(0, anonymous, teamScope))
	g.manage(0, "", "repo", "visibility", "team/app", "private")
	visible("private", 401, anonymous)

	// A team, last, because its members go on as alice.
	g.manage(0, "", "team", "add", "team/readers")
	g.manage(1, "", "grant", "add", "team", "--team", "readers", "--role", "reader")
	g.manage(2, password, "user", "add", "bob", "--password-stdin")
	g.manage(0, "", "team", "add-member", "team/readers", "bob")
	bob := basic("bob", password)
	token = g.bearer(1, bob, teamScope)
	visible("the team, before", 200, bob, token)
	g.manage(2, "", "team", "remove-member", "team/readers", "bob")
	visible("the team", 404, bob, token)

	g.fsck()
}

// An upload that begins with a token of one node goes on at others, for whoever began it and for nobody else.
func TestUploadIsForWhoBeganItOnAllNodes(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	g.manage(0, password, "user", "add", "eve", "--password-stdin")
	g.manage(0, "", "grant", "add", "team", "--user", "eve", "--role", "owner")
	alice, eve := g.bearer(0, basic("alice", password), teamScope), basic("eve", password)
	b := harness.NewBlob("", []byte("of alice"))
	location := g.at(0).Expect(http.StatusAccepted, "POST", "/v2/team/app/blobs/uploads/", []byte{}, alice).Path()
	location = g.at(1).Expect(http.StatusAccepted, "PATCH", location, b.Bytes, alice).Path()
	for n := range nodes {
		for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
			g.at(n).Expect(http.StatusNotFound, method, harness.WithDigest(location, b.Digest.String()), nil, eve)
			g.at(n).Expect(http.StatusUnauthorized, method, harness.WithDigest(location, b.Digest.String()), nil)
		}
	}
	g.at(2).Expect(http.StatusCreated, "PUT", harness.WithDigest(location, b.Digest.String()), nil, alice)
	g.fsck()
}

// The keys that sign tokens change without an outage: a node that has never seen the new key accepts what it signed, and what the old one
// signed is accepted on.
func TestKeysOfTokensChangeOnAllNodes(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	alice := basic("alice", password)
	g.push(alice)
	accepted := func(token harness.Header) {
		t.Helper()
		for n := range nodes {
			g.at(n).Expect(http.StatusOK, "HEAD", "/v2/team/app/manifests/1", nil, token)
		}
	}
	old := g.bearer(0, alice, teamScope)
	for n := range nodes {
		token := g.bearer(n, alice, teamScope)
		if key(t, token) != key(t, old) {
			t.Errorf("node %d signs with a key of its own", n)
		}
		accepted(token)
	}

	// The key has signed for as long as it may: a node that reads the keys anew makes the next one, and tells of it before it signs.
	month := int64(31 * 24 * 3600 * 1000)
	g.exec(fmt.Sprint("UPDATE signing_key SET signs_from = signs_from - ", month))
	g.reopen(0)
	before := g.bearer(0, alice, teamScope)
	if key(t, before) != key(t, old) {
		t.Error("a key signs that other nodes do not know yet")
	}
	accepted(before)
	if keys := g.keys(0); len(keys) != 2 || !slices.Contains(keys, key(t, old)) {
		t.Fatalf("the keys of node 0 are %q", keys)
	}
	// Its time has come; nodes 1 and 2 may not have read it.
	g.exec("UPDATE signing_key SET signs_from = signs_from - 3600000 WHERE kid <> '" + key(t, old) + "'")
	g.reopen(0)
	fresh := g.bearer(0, alice, teamScope)
	if key(t, fresh) == key(t, old) {
		t.Fatal("the old key still signs")
	}
	accepted(fresh)
	accepted(old)
	for n := range nodes {
		g.reopen(n)
		accepted(g.bearer(n, alice, teamScope))
		if keys := g.keys(n); len(keys) != 2 {
			t.Errorf("the keys of node %d are %q", n, keys)
		}
	}
	accepted(fresh)
	accepted(old)
}

// key returns the name of the key that signed a token.
func key(t *testing.T, token harness.Header) string {
	t.Helper()
	first, _, _ := strings.Cut(strings.TrimPrefix(token["Authorization"], "Bearer "), ".")
	b, err := base64.RawURLEncoding.DecodeString(first)
	var header struct{ Kid string }
	if err == nil {
		err = json.Unmarshal(b, &header)
	}
	if err != nil || header.Kid == "" {
		t.Fatalf("%v in %s", err, b)
	}
	return header.Kid
}

// keys returns the names of the keys that a node publishes.
func (g *guarded) keys(node int) (names []string) {
	g.t.Helper()
	resp := g.at(node).Expect(http.StatusOK, "GET", "/.well-known/jwks.json", nil)
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal(resp.Bytes, &set); err != nil {
		g.t.Fatal(err)
	}
	for _, k := range set.Keys {
		names = append(names, k.Kid)
	}
	return names
}

// reopen has a node read everything anew.
func (g *guarded) reopen(node int) {
	g.t.Helper()
	g.nodes[node].Kill()
	g.restart(node)
}

// exec runs a statement on the database, in the place of time that passes.
func (g *guarded) exec(statement string) {
	g.t.Helper()
	conn, err := pgx.Connect(g.t.Context(), g.database.URL)
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close(g.t.Context())
	if tag, err := conn.Exec(g.t.Context(), statement); err != nil || tag.RowsAffected() == 0 {
		g.t.Fatalf("%s: %v, %s", statement, err, tag)
	}
}

// Who guesses at one node after the other is slowed down as at one. Tokens and secrets of others, which nobody guesses, go on to work.
func TestGuessingIsCountedByAllNodesTogether(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	g.manage(0, "", "robot", "add", "team+ci")
	g.manage(0, "", "grant", "add", "team", "--robot", "team+ci", "--role", "writer")
	robot := basic("team+ci", g.manage(0, "", "robot", "secret", "add", "team+ci", "--quiet"))
	token := g.manage(0, "", "token", "add", "laptop", "--user", "alice", "--quiet")
	g.push(robot)
	// try tells for how many seconds a node lets nobody sign in as alice.
	try := func(n int, password string) int {
		t.Helper()
		resp := g.at(n).Do("GET", "/token?service=berth", nil, basic("alice", password))
		switch resp.StatusCode {
		case http.StatusTooManyRequests:
			seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
			if err != nil || seconds < 1 {
				t.Fatalf("Retry-After is %q", resp.Header.Get("Retry-After"))
			}
			return seconds
		case http.StatusOK, http.StatusUnauthorized:
			return 0
		}
		t.Fatalf("node %d: %d %s", n, resp.StatusCode, resp.Bytes)
		return 0
	}
	// At node 2 nobody guesses. The right password is no way round what was counted at the others; where it was one, it would begin the count anew.
	wait(t, "node 2 refuses the right password after guesses at nodes 0 and 1", func() bool {
		n := 0
		wait(t, "guesses are refused for some seconds", func() bool {
			n++
			return try(n%2, "wrong") >= 4
		})
		return try(2, password) > 0
	})
	for n := range nodes {
		for _, c := range []harness.Header{robot, basic("alice", token)} {
			g.at(n).Expect(http.StatusOK, "GET", "/v2/team/app/manifests/1", nil, c)
		}
	}
}
