package s3

import (
	"testing"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/blobtest"
	"github.com/berthregistry/berth/test/service"
)

// optionsOf returns what a store in the bucket needs.
func optionsOf(b *service.Bucket) Options {
	return Options{Bucket: b.Name, Endpoint: b.Endpoint, Region: b.Region, AccessKeyID: b.AccessKey, SecretAccessKey: b.SecretKey}
}

// openStore returns a store, as a node of its own.
func openStore(t testing.TB, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// overServers runs a test over each S3 server that there is. It is for tests that look at nothing but what S3 promises.
func overServers(t *testing.T, test func(t *testing.T, program string)) {
	for _, program := range service.S3Programs {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			test(t, program)
		})
	}
}

// TestLeaks is not parallel: see blobtest.TestLeaks.
func TestLeaks(t *testing.T) {
	for _, program := range service.S3Programs {
		t.Run(program, func(t *testing.T) {
			opts := optionsOf(service.S3Of(t, program))
			blobtest.TestLeaks(t, func(t *testing.T) func() blob.Store {
				return func() blob.Store { return openStore(t, opts) }
			})
		})
	}
}

func TestStore(t *testing.T) { overServers(t, testStore) }

func testStore(t *testing.T, program string) {
	for name, change := range map[string]func(*Options){
		"Plain": func(*Options) {},
		// As for a store that wants parts of one size.
		"Uniform": func(o *Options) { o.PartSize, o.Prefix = 6<<20, "team a/registry/" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blobtest.Test(t, func(t *testing.T) func() blob.Store {
				opts := optionsOf(service.S3Of(t, program))
				change(&opts)
				return func() blob.Store { return openStore(t, opts) }
			})
		})
	}
}
