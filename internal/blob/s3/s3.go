// Package s3 keeps objects in a bucket of an S3-compatible store.
//
// A key is the name of its object below a prefix: YYYYMMDD/HH/NAME, where the first two are the hour of
// creation in UTC and NAME is 26 random characters. Any other clean relative path is a key, too, for reading
// and deleting, so that objects that another program wrote can be adopted where they are.
//
// An upload writes under its final name; nothing is copied or renamed, and no object is written twice: an upload of which an
// object has been made, to go on from, and to which more comes, gets another key. Until it has one full part it is in
// memory, and Commit is one request. From then on it is a multipart upload whose parts are sent while
// more bytes come. What is left at each step when a node dies:
//
//  1. before the first part, or a Suspend or Checkpoint: nothing;
//  2. after one: an object of the bytes so far, or an unfinished multipart upload and, where the bytes after its
//     last part are too few for a part, objects KEY.tail.NAME, which together are those bytes;
//  3. after the completion, which is the one step that makes the object: the object.
//
// What 2 leaves is found by List under its key and removed by Delete; tails also by the Commit of who goes on.
//
// All that another node needs to go on is in blob.State: the upload's id, and for each part its size,
// ETag and CRC-32C. The objects of a tail are never overwritten, and stay until the state after the one
// that needs them has been made, so that a state can be resumed until the next one has been kept.
//
// An upload holds at most 48 MiB in memory and a few small chunks, much less if little has come. Every byte
// is sent with a checksum that the store verifies. A request that failed is made again, whole, under the same name
// or part number, so nothing is ever there twice; what it holds when the answer is lost is looked up.
//
// Objects are fetched by plain where there is no TLS, so that their bytes need not come into this process.
//
// The store must be consistent, as S3 has been since 2020: what was answered is seen by everybody. Nobody else writes
// below the prefix. Versions of objects are not removed.
package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/berthregistry/berth/internal/blob"
)

// PathStyle says where requests name the bucket.
type PathStyle int

// The values of PathStyle.
const (
	PathStyleAuto PathStyle = iota // in the host for AWS and others known to want it, else in the path
	PathStyleOn                    // in the path
	PathStyleOff                   // in the host
)

// Encryption says how the store encrypts objects.
type Encryption int

// The values of Encryption.
const (
	EncryptionNone Encryption = iota // as the bucket's settings say
	EncryptionS3                     // with keys of the store (SSE-S3)
	EncryptionKMS                    // with a key of a key management service (SSE-KMS)
)

// Options say where the bucket is and how to use it. Bucket is required, and Region or Endpoint.
type Options struct {
	Bucket string
	// Endpoint is the URL of the service without a path, such as https://s3.example.org:9000. Empty
	// stands for AWS in the region.
	Endpoint string
	// PublicEndpoint is the URL at which clients reach the service, for URL. Empty stands for Endpoint.
	PublicEndpoint string
	// Region signs requests. Empty stands for us-east-1.
	Region    string
	Prefix    string // that the names of all objects begin with, as it is
	PathStyle PathStyle

	// Static credentials. Without them the environment, the credentials file, the web identity and the
	// role of the instance or container are looked at, in this order.
	AccessKeyID, SecretAccessKey, SessionToken string

	// CredentialsFile and Profile say where to look in files. Empty stands for what AWS's tools use.
	CredentialsFile, Profile string

	StorageClass string // empty for the bucket's
	Encryption   Encryption
	KMSKey       string // the id of the key of EncryptionKMS; empty for the bucket's

	// CAFile names a file of PEM certificates to trust beside the system's.
	CAFile string

	// PartSize, if not 0, is the size in bytes of every part but the last, from 5 MiB to 5 GiB. Some stores want them
	// equal (Cloudflare R2, for which 32 MiB is the default); an object has 10,000 of them at most. 0 lets parts grow.
	PartSize int64
	// TempDir is where parts of more than 32 MiB wait, which are too large for memory, each in a file without a
	// name: those beyond about 200 GiB of an object. Empty stands for the system's.
	TempDir string

	// Stall is how long a request may be without a byte going either way, 30 s by default.
	Stall time.Duration
	// Patience is how long a request that fails is made again, at least twice, 30 s by default. After one that failed so
	// long, others are made once until one succeeds.
	Patience time.Duration

	// Observe, if not nil, is told of each request that has ended, from any goroutine.
	Observe func(Observation)
}

// Store is a blob.Store in a bucket.
type Store struct {
	opts        Options
	bucket      string
	client      minio.Core
	fetcher     minio.Core    // of objects
	public      *minio.Client // signs what clients ask for
	credentials *credentials.Credentials
	transport   *http.Transport
	getter      getter             // of objects
	sse         encrypt.ServerSide // nil for none
	layout      layout
	chunks      chunkPool
	now         func() time.Time

	// noCRC: the store refuses CRC-32C, so that Content-MD5 is sent instead.
	noCRC atomic.Bool

	// down: a request has failed for as long as patience lasts, and none has succeeded since. Until one does,
	// requests are made once, so that who asks is not kept waiting for what is known.
	down atomic.Bool
}

var (
	_ blob.Store      = (*Store)(nil)
	_ blob.Redirector = (*Store)(nil)

	_ blob.RangeOpener = (*Store)(nil)
)

// Open returns the store in a bucket. It makes no request: Check tells whether the bucket can be used.
func Open(ctx context.Context, opts Options) (*Store, error) {
	s := &Store{opts: opts, bucket: opts.Bucket, now: time.Now}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open bucket %q: %w", opts.Bucket, err)
	}
	return s, nil
}

func (s *Store) open() error {
	o := &s.opts
	if err := s3utils.CheckValidBucketNameStrict(o.Bucket); err != nil {
		return err
	}
	if o.Stall == 0 {
		o.Stall = 30 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.Endpoint == "" {
		o.Endpoint = "https://s3." + o.Region + ".amazonaws.com"
		if strings.HasPrefix(o.Region, "cn-") {
			o.Endpoint += ".cn"
		}
	}
	if o.PublicEndpoint == "" {
		o.PublicEndpoint = o.Endpoint
	}
	switch o.Encryption {
	case EncryptionS3:
		s.sse = encrypt.NewSSE()
	case EncryptionKMS:
		kms, err := encrypt.NewSSEKMS(o.KMSKey, nil)
		if err != nil {
			return err
		}
		s.sse = kms
	}
	var err error
	if s.transport, err = newTransport(o.CAFile); err != nil {
		return err
	}
	s.credentials = newCredentials(*o)
	s.getter = newGetter(s.transport)
	client, err := s.newClient(o.Endpoint, s.transport)
	if err != nil {
		return err
	}
	s.client = minio.Core{Client: client}
	if s.fetcher.Client, err = s.newClient(o.Endpoint, s.getter); err != nil {
		return err
	}
	if s.public, err = s.newClient(o.PublicEndpoint, s.transport); err != nil {
		return err
	}
	host := client.EndpointURL().Hostname()
	s.noCRC.Store(s3utils.IsGoogleEndpoint(*client.EndpointURL()))
	if o.PartSize == 0 && strings.HasSuffix(host, ".r2.cloudflarestorage.com") {
		o.PartSize = largestHeld
	}
	if o.PartSize != 0 && (o.PartSize < minPart || o.PartSize > 5<<30) {
		return fmt.Errorf("a part size of %d bytes is not between 5 MiB and 5 GiB", o.PartSize)
	}
	s.layout = layout{uniform: o.PartSize}
	return nil
}

// getter is an HTTP client for GET requests. The bodies of its answers may be tapped.
type getter interface {
	http.RoundTripper
	CloseIdleConnections()
}

// newTransport returns the HTTP client of the bucket. It is for HTTP/1.1: S3 has no other, and connections of
// their own serve parallel parts best.
func newTransport(caFile string) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificates to trust: %w", err)
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("there is no certificate in %s", caFile)
		}
	}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     50 * time.Second, // servers close idle connections after a minute or more
		DisableCompression:  true,             // or sizes would not be those of the bytes
	}, nil
}

func (s *Store) newClient(endpoint string, transport http.RoundTripper) (*minio.Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("an endpoint is not of the form https://HOST or http://HOST:PORT")
	}
	lookup := minio.BucketLookupAuto
	switch s.opts.PathStyle {
	case PathStyleOn:
		lookup = minio.BucketLookupPath
	case PathStyleOff:
		lookup = minio.BucketLookupDNS
	}
	return minio.New(u.Host, &minio.Options{
		Creds:        s.credentials,
		Secure:       u.Scheme == "https",
		Transport:    transport,
		Region:       s.opts.Region, // so that it is never asked for
		BucketLookup: lookup,
		MaxRetries:   1, // do retries
	})
}

// Close closes the connections that nobody uses. Readers and uploads can go on, and so can the Store.
func (s *Store) Close() {
	s.transport.CloseIdleConnections()
	s.getter.CloseIdleConnections()
}

// object returns the name of key's object. It fails with blob.ErrNotFound if key is not a clean relative path.
func (s *Store) object(key string) (string, error) {
	if !fs.ValidPath(key) || key == "." || strings.ContainsRune(key, 0) || len(s.opts.Prefix)+len(key) > 1024 {
		return "", fmt.Errorf("%w: invalid key", blob.ErrNotFound)
	}
	return s.opts.Prefix + key, nil
}

// Room implements blob.Store. A bucket has no limit that is known before it is reached.
func (s *Store) Room(context.Context, int64) error { return nil }

// Check implements blob.Store: it asks for one name of the bucket, once.
func (s *Store) Check(ctx context.Context) error {
	return s.once(ctx, "check", "the list of objects", func(ctx context.Context, _ func(int)) error {
		for o := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.opts.Prefix, Recursive: true, MaxKeys: 1}) {
			return o.Err
		}
		return ctx.Err()
	})
}

// URL implements blob.Redirector: a GET that is signed for the time given, from a second to a week, and no longer than
// the credentials live. No request is made, unless credentials have to be renewed.
func (s *Store) URL(ctx context.Context, key string, expire time.Duration) (string, error) {
	name, err := s.object(key)
	if err != nil {
		return "", fmt.Errorf("sign the address of object %s: %w", key, err)
	}
	u, err := s.public.PresignedGetObject(ctx, s.bucket, name, min(max(expire, time.Second), 7*24*time.Hour), nil)
	if err != nil {
		return "", s.wrap(ctx, "sign the address of object", key, err)
	}
	return u.String(), nil
}
