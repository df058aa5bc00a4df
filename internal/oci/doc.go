// Package oci is the vocabulary of the registry: repository names, tags,
// digests, descriptors, manifests and the specification's errors.
//
// What holds true: a Repository, Tag or Digest that exists is valid, because
// only the Parse functions make one; a Manifest has exactly one of the known
// shapes; no byte of a manifest is ever changed, since parsing keeps none of
// them. The package does no I/O and imports nothing of this module.
//
// References such as spec.md#pulling-manifests are to the OCI distribution
// specification, image-spec manifest.md and the like to the OCI image
// specification.
package oci
