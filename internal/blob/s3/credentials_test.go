package s3

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/service"
)

// withoutCredentials hides whatever the machine has.
func withoutCredentials(t *testing.T) {
	t.Helper()
	for _, k := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	} {
		t.Setenv(k, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
}

// amazon answers as AWS's services for credentials do. What it gives lives for life. There is no
// session token, which the S3 server of the tests would refuse, unless it is asked for one.
type amazon struct {
	*httptest.Server
	life    time.Duration
	session string
	asked   atomic.Int64 // how often for credentials
	broken  atomic.Bool
}

func newAmazon(t *testing.T, life time.Duration) *amazon {
	a := &amazon{life: life}
	mux := http.NewServeMux()
	// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "token") })
	const roles = "/latest/meta-data/iam/security-credentials/"
	mux.HandleFunc("GET "+roles, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Aws-Ec2-Metadata-Token") != "token" {
			w.WriteHeader(http.StatusUnauthorized)
		} else if r.URL.Path == roles {
			fmt.Fprintln(w, "registry")
		} else {
			a.json(w)
		}
	})
	mux.HandleFunc("GET /container", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "secret token" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		a.json(w)
	})
	// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("WebIdentityToken") != "identity" || r.FormValue("RoleArn") != "arn:aws:iam::1:role/registry" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no</Message></Error></ErrorResponse>")
			return
		}
		secret, ok := a.secret(w)
		if !ok {
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
<Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, service.S3AccessKey, secret, a.session, a.expiration())
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func (a *amazon) expiration() string { return time.Now().Add(a.life).UTC().Format(time.RFC3339Nano) }

func (a *amazon) secret(w http.ResponseWriter) (string, bool) {
	a.asked.Add(1)
	if a.broken.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return "", false
	}
	return service.S3SecretKey, true
}

func (a *amazon) json(w http.ResponseWriter) {
	if secret, ok := a.secret(w); ok {
		fmt.Fprintf(w, `{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`,
			service.S3AccessKey, secret, a.session, a.expiration())
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCredentials finds them in each place, and signs requests to a real server with them.
func TestCredentials(t *testing.T) {
	b := service.S3(t)
	file := fmt.Sprintf("[default]\naws_access_key_id = nobody\naws_secret_access_key = x\n[registry]\naws_access_key_id = %s\naws_secret_access_key = %s\n", service.S3AccessKey, service.S3SecretKey)
	for name, test := range map[string]struct {
		set   func(t *testing.T, a *amazon, o *Options)
		asked int64
	}{
		"environment": {func(t *testing.T, _ *amazon, o *Options) {
			t.Setenv("AWS_ACCESS_KEY_ID", service.S3AccessKey)
			t.Setenv("AWS_SECRET_ACCESS_KEY", service.S3SecretKey)
			o.CredentialsFile = writeFile(t, "[default]\naws_access_key_id = nobody\naws_secret_access_key = x\n")
		}, 0},
		"file": {func(t *testing.T, _ *amazon, o *Options) {
			o.CredentialsFile, o.Profile = writeFile(t, file), "registry"
		}, 0},
		"file of the environment": {func(t *testing.T, _ *amazon, o *Options) {
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", writeFile(t, file))
			t.Setenv("AWS_PROFILE", "registry")
		}, 0},
		"web identity": {func(t *testing.T, a *amazon, o *Options) {
			t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", writeFile(t, "identity"))
			t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/registry")
			t.Setenv("AWS_ENDPOINT_URL_STS", a.URL)
		}, 1},
		"container": {func(t *testing.T, a *amazon, o *Options) {
			t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", a.URL+"/container")
			t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret token")
		}, 1},
		"instance": {func(t *testing.T, a *amazon, o *Options) {
			t.Setenv("AWS_EC2_METADATA_DISABLED", "")
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", a.URL+"/")
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			withoutCredentials(t)
			o := optionsOf(b)
			o.AccessKeyID, o.SecretAccessKey = "", ""
			a := newAmazon(t, time.Hour)
			test.set(t, a, &o)
			s := openStore(t, o)
			for range 3 {
				if err := s.Check(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if n := a.asked.Load(); n != test.asked {
				t.Errorf("credentials were asked for %d times, want %d", n, test.asked)
			}
		})
	}
}

// TestSessionToken sends the token of temporary credentials with each request, and in addresses.
func TestSessionToken(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	withoutCredentials(t)
	a := newAmazon(t, time.Hour)
	a.session = "session token"
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", a.URL)
	o := p.options(b)
	o.AccessKeyID, o.SecretAccessKey = "", ""
	s := openStore(t, o)
	p.setFault(func(string, int) fault { return fault{status: 200} })
	_ = s.Check(t.Context())
	if all := p.all("list objects"); len(all) == 0 || all[0].header.Get("X-Amz-Security-Token") != "session token" {
		t.Errorf("requests %v", all)
	}
	u, err := s.URL(t.Context(), "x", time.Minute)
	if err != nil || !strings.Contains(u, "X-Amz-Security-Token=session%20token") {
		t.Errorf("URL: %s, %v", u, err)
	}
}

// TestCredentialsRenewed lets them expire, while their service works and while it does not.
func TestCredentialsRenewed(t *testing.T) {
	b := service.S3(t)
	withoutCredentials(t)
	const life = 2 * time.Second
	a := newAmazon(t, life)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", a.URL)
	o := optionsOf(b)
	o.AccessKeyID, o.SecretAccessKey = "", ""
	s := openStore(t, o)
	begin := time.Now()
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	for a.asked.Load() < 3 {
		v, err := s.credentials.GetWithContext(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !time.Now().Before(v.Expiration) {
			t.Fatal("credentials are used that have expired")
		}
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if took := time.Since(begin); took < life {
		t.Errorf("credentials of %v were renewed twice within %v", life, took)
	}
	// Those that are valid still serve while no others are to be had, and then their end is told.
	a.broken.Store(true)
	asked := a.asked.Load()
	for a.asked.Load() == asked {
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check after a renewal failed: %v", err)
	}
	time.Sleep(life)
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "the instance's role") {
		t.Errorf("Check with expired credentials: %v", err)
	}
	a.broken.Store(false)
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check when there are credentials again: %v", err)
	}
}

// TestCredentialsReplaced has the store refuse credentials whose time is not over.
func TestCredentialsReplaced(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	withoutCredentials(t)
	a := newAmazon(t, time.Hour)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", a.URL)
	o := p.options(b)
	o.AccessKeyID, o.SecretAccessKey = "", ""
	s := openStore(t, o)
	p.setFault(func(_ string, n int) fault {
		if n == 2 {
			return fault{status: 400, code: "ExpiredToken"}
		}
		return fault{}
	})
	for range 2 {
		put(t, s, []byte("x"))
	}
	if n := a.asked.Load(); n != 2 {
		t.Errorf("credentials were asked for %d times", n)
	}
}
