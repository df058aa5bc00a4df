package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/berthregistry/berth/internal/oci"
)

// builtinRegistry is where "berth serve" listens if nothing is configured.
const builtinRegistry = "127.0.0.1:5000"

// defaultRegistry returns the host of references that name none.
func defaultRegistry() string {
	if host := os.Getenv("BERTH_REGISTRY"); host != "" {
		return host
	}
	return builtinRegistry
}

// reference is what someone types to name a repository or something in it:
// [HOST[:PORT]/]NAME[:TAG][@DIGEST].
type reference struct {
	host   string
	name   oci.Repository
	tag    oci.Tag    // empty if not given
	digest oci.Digest // zero if not given
}

// parseReference reads s; registry is the host if s names none.
func parseReference(s, registry string) (reference, error) {
	if scheme, _, ok := strings.Cut(s, "://"); ok {
		return reference{}, fmt.Errorf("%q is not a reference: leave out %s://", s, scheme)
	}
	ref := reference{host: registry}
	rest := s
	if first, after, ok := strings.Cut(s, "/"); ok && isHost(first) {
		ref.host, rest = first, after
	}
	rest, digest, hasDigest := strings.Cut(rest, "@")
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		tag, err := oci.ParseTag(rest[i+1:])
		if err != nil {
			return reference{}, fmt.Errorf("%q: %w", s, plain(err))
		}
		ref.tag, rest = tag, rest[:i]
	}
	var err error
	if ref.name, err = oci.ParseRepository(rest); err != nil {
		return reference{}, fmt.Errorf("%q: %w", s, plain(err))
	}
	if hasDigest {
		if ref.digest, err = oci.ParseDigest(digest); err != nil {
			return reference{}, fmt.Errorf("%q: %w", s, plain(err))
		}
	}
	if ref.host == "docker.io" && !strings.Contains(string(ref.name), "/") {
		return reference{}, fmt.Errorf("%q: repositories of docker.io have a namespace: write docker.io/library/%s for Docker's official images", s, ref.name)
	}
	return ref, nil
}

// isHost tells whether the part of a reference before the first '/' is a host.
func isHost(s string) bool {
	return strings.ContainsAny(s, ".:[") || s == "localhost"
}

// plain returns err without the specification's code, which is for clients.
func plain(err error) error {
	if e, ok := err.(*oci.Error); ok {
		return fmt.Errorf("%s", e.Message)
	}
	return err
}

// manifest returns what r names inside its repository: the digest if there is one, else the
// tag, which is "latest" if none is given.
func (r reference) manifest() oci.Reference {
	switch {
	case !r.digest.IsZero():
		return oci.Reference{Digest: r.digest}
	case r.tag == "":
		return oci.Reference{Tag: "latest"}
	}
	return oci.Reference{Tag: r.tag}
}

// bare tells whether r names a whole repository.
func (r reference) bare() bool { return r.tag == "" && r.digest.IsZero() }

// repository returns r without tag and digest.
func (r reference) repository() string { return r.host + "/" + string(r.name) }
