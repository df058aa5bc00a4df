package admin

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/oci"
)

// bodies are those that are read.
func bodies() []any {
	return []any{
		new(NewUser), new(AccountChange), new(NewPassword), new(NewCredential), new(NewRobot), new(Rotation), new(NewOrganization), new(OrganizationChange),
		new(NewTeam), new(GroupNames), new(NewGrant), new(RepositoryChange), new(NewSetup),
	}
}

// FuzzBodies: whatever is sent is read as it was meant, or refused with a message.
func FuzzBodies(f *testing.F) {
	for i, text := range []string{
		`{"name":"bob","password":"a good password","networks":["10.0.0.0/8"],"expires":"2999-01-01T00:00:00Z"}`, `{"expires":"","networks":null}`, `{"old":"a"}`,
		`{"actions":["pull"],"repositories":["team/**","!team/x"],"expires":""}`, `{"name":"a"}`, `{"overlap":"1h30m"}`, `{"name":"team","public":true}`,
		`{"creation":"push"}`, ``, `{"names":["a"]}`, `{"account":"bob","role":"writer","tags":["v*"]}`, `{"visibility":"public"}`, "{\"token\":\"\xff\"}",
		`{"networks":[""]}`, `{"expires":5}`, `{"overlap":{}}`, `{} {}`, `null`, `[[[[`,
	} {
		f.Add(uint8(i), []byte(text))
	}
	f.Fuzz(func(t *testing.T, kind uint8, text []byte) {
		all := bodies()
		into := all[int(kind)%len(all)]
		if err := parse(text, into); err != nil {
			refused(t, err)
			return
		}
		// What was read can be used, or is refused.
		switch b := into.(type) {
		case *NewUser:
			if checkUser(b.Name) == nil && (b.Name == "" || len(b.Name) > maxName || strings.ToLower(b.Name) != b.Name || strings.Contains(b.Name, "+")) {
				t.Errorf("the name %q is taken", b.Name)
			}
			if auth.CheckPassword(b.Password) == nil && len(b.Password) < 10 {
				t.Errorf("the password %q is taken", b.Password)
			}
			_, err := b.apply()
			refused(t, err)
		case *AccountChange:
			_, err := b.applyRobot()
			refused(t, err)
		case *NewCredential:
			c, err := b.credential("token", b.Expires.AddDate(-1, 0, 0))
			if refused(t, err); err == nil && (c.Actions == 0 || len(c.Repositories) != len(b.Repositories) || len(c.Networks) < len(b.Networks)) {
				t.Errorf("%+v became %+v: it is limited less", b, c)
			}
		case *NewOrganization:
			if checkOrganization(b.Name) == nil {
				if _, err := oci.ParseRepository(b.Name + "/app"); err != nil {
					t.Error(err)
				}
			}
		case *NewGrant:
			g, err := b.grant("team")
			if refused(t, err); err == nil && (g.Actions == 0 || g.Organization != "team" || (g.Account == "") == (g.Team == "") ||
				len(g.Repositories) != len(b.Repositories) || len(g.Tags) != len(b.Tags)) {
				t.Errorf("%+v became %+v", b, g)
			}
		case *Rotation:
			if b.Overlap != nil && b.Overlap.Duration < 0 {
				t.Errorf("the overlap is %s", b.Overlap)
			}
		}
	})
}

// refused fails if an error is none that a client is told about.
func refused(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	e, ok := err.(*oci.Error)
	if !ok || e.Message == "" || e.HTTPStatus() != http.StatusBadRequest {
		t.Errorf("%v (%s)", err, reflect.TypeOf(err))
	}
}
