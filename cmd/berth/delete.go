package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
)

func newDeleteCommand() *cobra.Command {
	m := new(management)
	var yes, noTrunc bool
	cmd := &cobra.Command{
		Use: "delete [HOST/]REPO:TAG|@DIGEST", Short: "Delete an image or artifact of a Berth, with all that is there for it alone",
		Long: `Delete a tag, or a manifest with its tags, and all that is there for it alone: the images that an index names, what refers to it (signatures, SBOMs), and what
cosign keeps under a tag made of its digest, as far as nothing else needs them. What has another tag, is part of another index, or is the subject
of something that stays, stays, and so does all that belongs to that. Protected tags and freezes hold.

The plan is printed first. With --yes it is carried out, in one transaction; what has moved since the plan was made stays.`,
		Example: `  berth delete team/app:1.0
  berth delete team/app:1.0 --yes
  berth delete team/app@sha256:32e0a951a201c8a7b36ae5ca751068abe9cbcda5e5751e66961654c5c1521051 --json`,
		Args: exactArgs("REPO:TAG"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseReference(args[0], "")
			switch {
			case err != nil:
				return usagef(cmd, "%w", err)
			case ref.bare():
				return usagef(cmd, "%q names a repository: add the tag or digest of what is to be deleted", args[0])
			case ref.tag != "" && !ref.digest.IsZero():
				return usagef(cmd, "%q names a tag and a digest: leave out one of them", args[0])
			case ref.host != "" && m.server != "":
				return usagef(cmd, "%q and --server both name a registry", args[0])
			case ref.host != "":
				m.server = ref.host
			}
			return m.run(func(cmd *cobra.Command, _ []string) error {
				query := url.Values{"tag": {string(ref.tag)}}
				if ref.tag == "" {
					query = url.Values{"digest": {ref.digest.String()}}
				}
				where := "cascade/" + string(ref.name)
				var plan admin.Cascade
				if err := m.call(cmd.Context(), http.MethodGet, where+"?"+query.Encode(), nil, &plan); err != nil {
					return err
				}
				if !yes {
					return printCascade(cmd, m, plan, "Would delete", noTrunc)
				}
				order := admin.CascadeOrder{Tags: []admin.OrderedTag{}, Manifests: []admin.OrderedManifest{}}
				for _, v := range plan.Tags {
					order.Tags = append(order.Tags, admin.OrderedTag{CascadeTag: v})
				}
				for _, v := range plan.Manifests {
					order.Manifests = append(order.Manifests, admin.OrderedManifest{Digest: v.Digest})
				}
				var done admin.Cascade
				if err := m.call(cmd.Context(), http.MethodPost, where, order, &done); err != nil {
					return err
				}
				return printCascade(cmd, m, done, "Deleted", noTrunc)
			})(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&yes, "yes", "y", false, "delete, do not only print the plan")
	flags.BoolVar(&noTrunc, "no-trunc", false, "print digests in full")
	m.addFlags(flags)
	addHelp(cmd)
	return cmd
}

func printCascade(cmd *cobra.Command, m *management, c admin.Cascade, what string, whole bool) error {
	if m.json {
		return m.show(cmd, c)
	}
	out := cmd.OutOrStdout()
	tab := newTable(out, "", "GOES", "DIGEST", "WHAT")
	for _, tag := range c.Tags {
		if err := tab.row("yes", digestText(tag.Digest, whole), "tag "+string(tag.Tag)); err != nil {
			return err
		}
	}
	for i, v := range slices.Concat(c.Manifests, c.Kept) {
		goes := "yes"
		if i >= len(c.Manifests) {
			goes = "no"
		}
		if err := tab.row(goes, digestText(v.Digest, whole), "manifest: "+v.Why); err != nil {
			return err
		}
	}
	if err := tab.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%s %d tags and %d manifests, which frees %s.\n", what, len(c.Tags), len(c.Manifests), humanize.Bytes(uint64(c.Bytes)))
	return err
}
