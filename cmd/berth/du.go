package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/oci"
)

func newDuCommand() *cobra.Command {
	m := new(management)
	var repository bool
	cmd := &cobra.Command{
		Use: "du [ORG|REPO[:TAG]]", Short: "Show what takes the space, and what a deletion would free",
		Long: `Show what takes the space: organizations (the first part of repositories' names); the repositories of one; the tags of one repository; or one tag.

SIZE counts every blob and manifest of it once. ALONE is how much of that nothing else has: what would be free if it were deleted, once its time in the trash
is up and the collector has been there. SHARED is the rest. TRASH is how much only manifests need that lie in the trash already: what is free when their
time is up, or after "berth trash empty". A tag stands for its manifest, the manifests that this lists, and their blobs; other tags and untagged
manifests share with it, referrers (signatures and the like) are not in it. In the list of organizations, SIZE counts a blob in every repository
that has it, and SAVED is what comes of storing it once in the organization. What nothing needs counts until it is collected.` + managementHelp,
		Example: `  berth du
  berth du team
  berth du team/app
  berth du team/app:1.0 --json
  berth du --repo alpine`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: complete(m, namesOf("organizations")),
		RunE: func(cmd *cobra.Command, args []string) error {
			do := m.duAll
			if len(args) == 1 {
				name := args[0]
				if first, rest, ok := strings.Cut(name, "/"); ok && isHost(first) {
					if m.server != "" {
						return usagef(cmd, "%q and --server both name a registry", name)
					}
					m.server, name = first, rest
				}
				ref, err := parseReference("localhost/"+strings.TrimSuffix(name, "/"), "")
				switch {
				case err != nil:
					return usagef(cmd, "%q: %w", args[0], err)
				case !ref.digest.IsZero():
					return usagef(cmd, "%q names a manifest: name a tag, or the repository", args[0])
				case ref.tag != "":
					do = func(cmd *cobra.Command) error { return m.duTag(cmd, ref.name, ref.tag) }
				case repository || strings.Contains(string(ref.name), "/"):
					do = func(cmd *cobra.Command) error { return m.duRepository(cmd, ref.name) }
				default:
					do = func(cmd *cobra.Command) error { return m.duOrganization(cmd, string(ref.name)) }
				}
			}
			return m.run(func(cmd *cobra.Command, _ []string) error { return do(cmd) })(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&repository, "repo", false, "the name is a repository's, though it has one part only")
	m.addFlags(cmd.Flags())
	return cmd
}

// duAll lists organizations.
func (m *management) duAll(cmd *cobra.Command) error {
	return listAll(cmd, m, "usage", nil, []string{"ORGANIZATION", "REPOSITORIES", "TAGS", "SIZE", "DEDUPLICATED", "SAVED"}, func(u admin.Usage) []string {
		return []string{u.Organization, humanize.Comma(u.Repositories), humanize.Comma(u.Tags), sizeText(u.Bytes), sizeText(u.Deduplicated), sizeText(u.Bytes - u.Deduplicated)}
	})
}

var spaceHeader = []string{"SIZE", "ALONE", "SHARED"}

func spaceCells(s admin.Space) []string {
	return []string{sizeText(s.Bytes), sizeText(s.Alone), sizeText(s.Bytes - s.Alone)}
}

func spaceRows(s admin.Space) [][2]string {
	return [][2]string{
		{"Manifests", humanize.Comma(s.Manifests)}, {"Blobs", humanize.Comma(s.Blobs)},
		{"Size", sizeText(s.Bytes)}, {"Alone", sizeText(s.Alone)}, {"Shared", sizeText(s.Bytes - s.Alone)},
	}
}

// above prints what a list is of, before the list.
func (m *management) above(cmd *cobra.Command, v any, rows ...[2]string) error {
	if m.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
	}
	if err := m.show(cmd, v, rows...); err != nil {
		return err
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout())
	return err
}

// duOrganization shows an organization, and lists its repositories.
func (m *management) duOrganization(cmd *cobra.Command, organization string) error {
	var u admin.Usage
	if err := m.call(cmd.Context(), http.MethodGet, path("organizations", organization, "usage"), nil, &u); err != nil {
		return err
	}
	alone := u.Deduplicated
	if u.Alone != nil {
		alone = *u.Alone
	}
	if err := m.above(cmd, u, [2]string{"Organization", u.Organization}, [2]string{"Repositories", humanize.Comma(u.Repositories)}, [2]string{"Tags", humanize.Comma(u.Tags)},
		[2]string{"Size", sizeText(u.Bytes) + " in its repositories, " + sizeText(u.Deduplicated) + " deduplicated"},
		[2]string{"Saved", sizeText(u.Bytes - u.Deduplicated)},
		[2]string{"Alone", sizeText(alone)}, [2]string{"Shared", sizeText(u.Deduplicated - alone)}); err != nil {
		return err
	}
	return listAll(cmd, m, path("organizations", organization, "usage", "repositories"), nil, append(append([]string{"REPOSITORY", "TAGS"}, spaceHeader...), "TRASH"),
		func(r admin.RepositoryUsage) []string {
			return append(append([]string{r.Repository, humanize.Comma(r.Tags)}, spaceCells(r.Space)...), sizeText(r.Trash))
		})
}

// duRepository shows a repository, and lists its tags.
func (m *management) duRepository(cmd *cobra.Command, r oci.Repository) error {
	var u admin.RepositoryUsage
	if err := m.call(cmd.Context(), http.MethodGet, "usage/repositories/"+string(r), nil, &u); err != nil {
		return err
	}
	rows := append([][2]string{{"Repository", u.Repository}, {"Tags", strconv.FormatInt(u.Tags, 10)}}, spaceRows(u.Space)...)
	if err := m.above(cmd, u, append(rows, [2]string{"Trash", sizeText(u.Trash)})...); err != nil {
		return err
	}
	return listAll(cmd, m, "usage/tags/"+string(r), nil, append([]string{"TAG", "DIGEST"}, spaceHeader...), func(t admin.TagUsage) []string {
		digest := t.Digest
		if d, err := oci.ParseDigest(digest); err == nil {
			digest = digestText(d, false)
		}
		return append([]string{t.Tag, orDash(digest)}, spaceCells(t.Space)...)
	})
}

// duTag shows a tag.
func (m *management) duTag(cmd *cobra.Command, r oci.Repository, tag oci.Tag) error {
	for u, err := range each[admin.TagUsage](cmd.Context(), m, "usage/tags/"+string(r), url.Values{"tag": {string(tag)}}) {
		if err != nil {
			return err
		}
		if err := m.show(cmd, u, append([][2]string{{"Tag", string(r) + ":" + u.Tag}, {"Digest", u.Digest}}, spaceRows(u.Space)...)...); err != nil {
			return err
		}
	}
	return nil
}
