package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

func newManifestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "Work with manifests: images, indexes and artifacts",
	}
	cmd.AddCommand(newManifestListCommand(), newManifestShowCommand())
	return cmd
}

func newManifestListCommand() *cobra.Command {
	var (
		conn            connection
		asJSON, noTrunc bool
	)
	cmd := &cobra.Command{
		Use:     "ls [HOST/]REPO",
		Aliases: []string{"list"},
		Short:   "List the manifests of a repository of a Berth, those without a tag included",
		Long: `List the manifests of a repository of a Berth, those without a tag included, with their own size, how many tags point to them, and when they were
pushed and pulled last, by whichever tag or by digest. HEAD is a pull, too. Pulls are noted every half a minute.`,
		Args: exactArgs("REPO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseReference(args[0], defaultRegistry())
			if err != nil {
				return usagef(cmd, "%w", err)
			}
			if !ref.bare() {
				return usagef(cmd, "%q names one manifest: leave out its tag or digest, or use \"berth manifest show\"", args[0])
			}
			m := &management{conn: conn, server: ref.host, json: asJSON}
			return m.run(func(cmd *cobra.Command, _ []string) error {
				header := []string{"DIGEST", "TYPE", "SIZE", "TAGS", "PUSHED", "PULLED"}
				return listAll(cmd, m, "manifests/"+string(ref.name), nil, header, func(v admin.Manifest) []string {
					return []string{digestText(v.Digest, noTrunc), v.MediaType, sizeText(v.Size), strconv.FormatInt(v.Tags, 10), ageText(v.Pushed.Time), ageText(v.Pulled.Time)}
				})
			})(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&asJSON, "json", false, "print one JSON object on each line")
	flags.BoolVar(&noTrunc, "no-trunc", false, "print digests in full")
	conn.addFlags(flags)
	return cmd
}

func newManifestShowCommand() *cobra.Command {
	var (
		conn        connection
		raw, asJSON bool
		platform    string
	)
	cmd := &cobra.Command{
		Use:   "show [HOST/]REPO[:TAG|@DIGEST]",
		Short: "Show an image, an index or an artifact",
		Long: `Show what a tag or digest stands for: of an image its platform, configuration and layers, of
an index its children, and of both their annotations and what refers to them, such as
signatures and SBOMs. The tag is "latest" if none is given.`,
		Example: `  berth manifest show team/app:1.0
  berth manifest show --platform linux/arm64 registry.example.com/team/app:1.0
  berth manifest show --raw team/app:1.0 | sha256sum`,
		Args: exactArgs("REPO[:TAG|@DIGEST]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseReference(args[0], defaultRegistry())
			if err != nil {
				return usagef(cmd, "%w", err)
			}
			if raw && asJSON {
				return usagef(cmd, "--raw and --json exclude each other")
			}
			want, err := parsePlatform(platform)
			if err != nil {
				return usagef(cmd, "--platform: %w", err)
			}
			ctx := cmd.Context()
			repo, err := conn.repository(ctx, ref)
			if err != nil {
				return err
			}
			var m upstream.Manifest
			if want != nil {
				m, _, err = repo.Select(ctx, ref.manifest(), *want)
			} else {
				m, err = repo.Manifest(ctx, ref.manifest())
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if raw {
				_, err := out.Write(m.Body)
				return err
			}
			view, err := newManifestView(ctx, repo, ref, m)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(out)
				enc.SetIndent("", "  ")
				return enc.Encode(view)
			}
			return view.print(out)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&raw, "raw", false, "print the manifest's bytes exactly as they are stored")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	flags.StringVar(&platform, "platform", "", "of an index, show the image for `OS/ARCH[/VARIANT]`")
	conn.addFlags(flags)
	return cmd
}

// parsePlatform reads the value of a --platform flag; nil if it is empty.
func parsePlatform(s string) (*oci.Platform, error) {
	if s == "" {
		return nil, nil
	}
	p, err := upstream.ParsePlatform(s)
	return &p, err
}

// manifestView is what "manifest show" knows of a manifest.
type manifestView struct {
	Name         string            `json:"name"`
	Digest       oci.Digest        `json:"digest"`
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Size         int               `json:"size"`                  // bytes of the manifest
	ContentSize  *int64            `json:"contentSize,omitempty"` // bytes of all blobs below it; absent if unknown
	Config       *oci.Descriptor   `json:"config,omitempty"`
	Image        *upstream.Config  `json:"image,omitempty"`
	Layers       []oci.Descriptor  `json:"layers,omitempty"`
	Manifests    []oci.Descriptor  `json:"manifests,omitempty"`
	Subject      *oci.Descriptor   `json:"subject,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Referrers    []oci.Descriptor  `json:"referrers,omitempty"`

	details *description
}

func newManifestView(ctx context.Context, repo *upstream.Repository, ref reference, m upstream.Manifest) (*manifestView, error) {
	parsed, err := oci.ParseManifest(m.MediaType, m.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Digest, plain(err))
	}
	// What ParseManifest leaves out, because a registry needs each digest once.
	var doc struct {
		Config    *oci.Descriptor  `json:"config"`
		Layers    []oci.Descriptor `json:"layers"`
		Manifests []oci.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(m.Body, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Digest, err)
	}
	v := &manifestView{
		Digest:      m.Digest,
		MediaType:   m.MediaType,
		Size:        len(m.Body),
		Config:      doc.Config,
		Layers:      doc.Layers,
		Manifests:   doc.Manifests,
		Subject:     parsed.Subject,
		Annotations: parsed.Annotations,
	}
	v.Name = ref.repository() + "@" + m.Digest.String()
	if at := ref.manifest(); !at.IsDigest() {
		v.Name = ref.repository() + ":" + at.String()
	}
	if v.Image, err = repo.Config(ctx, parsed); err != nil {
		return nil, err
	}
	if v.details, err = newDescriber(repo).describe(ctx, m); err != nil {
		return nil, err
	}
	v.ArtifactType = v.details.ArtifactType
	if n := v.details.Size; n >= 0 {
		v.ContentSize = &n
	}
	v.Referrers, err = repo.Referrers(ctx, m.Digest, "")
	return v, err
}
