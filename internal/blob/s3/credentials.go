package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// errNoCredentials: none were found, or those that were found cannot be used.
var errNoCredentials = errors.New("no credentials for the bucket")

const (
	// credentialsTimeout bounds each request for credentials.
	credentialsTimeout = 10 * time.Second
	// credentialsPause is how long credentials that could not be renewed, but are still valid, are used
	// before the next try.
	credentialsPause = 20 * time.Second
)

// source is one place where credentials may be.
type source struct {
	name string
	credentials.Provider
}

// chain finds credentials in the first of several places, and renews them there: when four fifths of their
// time are over, or when the store refuses them. While that fails, those that are still valid are used. The
// library's own chain would go on without any, and make every request wait and fail meanwhile.
//
// credentials.Credentials calls one method at a time.
type chain struct {
	sources []source
	found   *source           // nil while none is
	value   credentials.Value // of found
	retry   time.Time         // after a failure, when to ask again
}

func newCredentials(o Options) *credentials.Credentials {
	if o.AccessKeyID != "" || o.SecretAccessKey != "" {
		return credentials.NewStaticV4(o.AccessKeyID, o.SecretAccessKey, o.SessionToken)
	}
	c := &chain{sources: []source{
		{"the environment", &credentials.EnvAWS{}},
		{"the credentials file", &credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: o.Profile}},
	}}
	client := &http.Client{Timeout: credentialsTimeout}
	switch {
	case os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		c.sources = append(c.sources, source{"the web identity", &credentials.IAM{
			Client: client, Region: o.Region, Endpoint: os.Getenv("AWS_ENDPOINT_URL_STS"),
		}})
	case os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "" || os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "":
		c.sources = append(c.sources, source{"the container's role", &credentials.IAM{Client: client}})
	case !strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true"):
		c.sources = append(c.sources, source{"the instance's role", &credentials.IAM{
			Client: client, Endpoint: strings.TrimSuffix(os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "/"),
		}})
	}
	return credentials.New(c)
}

// Retrieve implements credentials.Provider.
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// RetrieveWithCredContext implements credentials.Provider.
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	if cc == nil {
		cc = &credentials.CredContext{}
	}
	if cc.Context == nil {
		cc.Context = context.Background()
	}
	if c.found != nil {
		v, err := c.found.RetrieveWithCredContext(cc)
		switch {
		case usable(v, err):
			c.value, c.retry = v, time.Time{}
		case c.value.Expiration.IsZero() || time.Now().After(c.value.Expiration):
			return credentials.Value{}, fmt.Errorf("%w: %s: %w", errNoCredentials, c.found.name, why(err))
		default:
			c.retry = time.Now().Add(credentialsPause)
		}
		return c.value, nil
	}
	var tried []string
	for i := range c.sources {
		v, err := c.sources[i].RetrieveWithCredContext(cc)
		if usable(v, err) {
			c.found, c.value = &c.sources[i], v
			return v, nil
		}
		tried = append(tried, fmt.Sprintf("%s: %v", c.sources[i].name, why(err)))
	}
	return credentials.Value{}, fmt.Errorf("%w: %s", errNoCredentials, strings.Join(tried, "; "))
}

func usable(v credentials.Value, err error) bool {
	return err == nil && v.AccessKeyID != "" && v.SecretAccessKey != ""
}

var errNothing = errors.New("nothing there")

func why(err error) error {
	if err == nil {
		return errNothing
	}
	return err
}

// IsExpired implements credentials.Provider.
func (c *chain) IsExpired() bool {
	if c.found == nil {
		return true
	}
	if !c.retry.IsZero() && time.Now().Before(c.retry) && time.Now().Before(c.value.Expiration) {
		return false
	}
	return c.found.IsExpired()
}
