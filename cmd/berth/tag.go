package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

func newTagCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tag",
		Short: "Work with the tags of a repository",
	}
	cmd.AddCommand(newTagListCommand(), newTagHistoryCommand(), newTagRestoreCommand(), newTagResolveCommand(),
		newTagProtectCommand(), newTagProtectionsCommand(), newTagUnprotectCommand())
	return cmd
}

// tagList is how tags are listed.
type tagList struct {
	quiet    bool
	json     bool
	noTrunc  bool
	pulled   bool
	parallel int
}

func newTagListCommand() *cobra.Command {
	var (
		conn connection
		list tagList
		at   string
	)
	cmd := &cobra.Command{
		Use:     "ls [HOST/]REPO",
		Aliases: []string{"list"},
		Short:   "List the tags of a repository",
		Long: `List the tags of a repository with what they point at: the platforms of an image or the type of
an artifact, the size of all its blobs as they are stored, and when it was made.

An index counts the blobs of all its platforms, each once. --quiet lists tags only, which
takes one request for each thousand of them instead of a few for each.

--at lists the tags that were there at a time, of a Berth, with where their manifests are now: in the repository, in the trash or gone.

--pulled shows when each was pushed and pulled last, of a Berth. HEAD is a pull, too: clients that have an image ask no more. Pulls
are noted every half a minute.`,
		Example: `  berth tag ls team/app
  berth tag ls --quiet registry.example.com/team/app
  berth tag ls --at 7d team/app
  berth tag ls --pulled team/app
  berth tag ls --json team/app | jq -r 'select(.size > 1e9) | .tag'`,
		Args: exactArgs("REPO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseReference(args[0], defaultRegistry())
			if err != nil {
				return usagef(cmd, "%w", err)
			}
			if !ref.bare() {
				return usagef(cmd, "%q names one manifest: leave out its tag or digest, or use \"berth manifest show\"", args[0])
			}
			if list.parallel < 1 {
				return usagef(cmd, "--parallel must be at least 1")
			}
			if at != "" {
				return list.tagsAt(cmd, conn, ref, at)
			}
			if list.pulled {
				m := &management{conn: conn, server: ref.host, json: list.json}
				return m.run(func(cmd *cobra.Command, _ []string) error {
					return listAll(cmd, m, "tags/"+string(ref.name), nil, []string{"TAG", "DIGEST", "PUSHED", "PULLED"}, func(t admin.Tag) []string {
						return []string{string(t.Tag), digestText(t.Digest, list.noTrunc), ageText(t.Pushed.Time), ageText(t.Pulled.Time)}
					})
				})(cmd, args)
			}
			repo, err := conn.repository(cmd.Context(), ref)
			if err != nil {
				return err
			}
			if list.quiet {
				return list.names(cmd.Context(), repo, cmd.OutOrStdout())
			}
			return list.details(cmd.Context(), repo, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&at, "at", "", "list the tags of this `TIME`: 24h, 7d, 2026-12-31 or 2026-12-31T12:00:00Z")
	flags.BoolVarP(&list.quiet, "quiet", "q", false, "print the tags only")
	flags.BoolVar(&list.pulled, "pulled", false, "show when tags were pushed and pulled last")
	flags.BoolVar(&list.json, "json", false, "print one JSON object on each line")
	flags.BoolVar(&list.noTrunc, "no-trunc", false, "print digests in full")
	flags.IntVar(&list.parallel, "parallel", 8, "ask for `N` tags at a time")
	conn.addFlags(flags)
	return cmd
}

// names prints the tags.
func (l *tagList) names(ctx context.Context, repo *upstream.Repository, w io.Writer) error {
	out := bufio.NewWriter(w)
	defer out.Flush()
	enc := json.NewEncoder(out)
	for tag, err := range repo.Tags(ctx) {
		if err != nil {
			return err
		}
		if l.json {
			err = enc.Encode(tagLine{Repository: repo.Name(), Tag: tag})
		} else {
			_, err = fmt.Fprintln(out, tag)
		}
		if err != nil {
			return err
		}
	}
	return out.Flush()
}

// tagLine is a tag in JSON.
type tagLine struct {
	Repository   oci.Repository `json:"repository"`
	Tag          oci.Tag        `json:"tag"`
	Digest       oci.Digest     `json:"digest,omitzero"`
	MediaType    string         `json:"mediaType,omitempty"`
	ArtifactType string         `json:"artifactType,omitempty"`
	Platforms    []string       `json:"platforms,omitempty"`
	Size         *int64         `json:"size,omitempty"` // absent if unknown
	Created      time.Time      `json:"created,omitzero"`
}

// tagDetail is a tag and what was found out about it.
type tagDetail struct {
	tag    oci.Tag
	digest oci.Digest
	*description
	err error
}

// details prints the tags with what they point at. A tag that can't be described
// does not hide the others; it is reported on errs and in the error.
func (l *tagList) details(ctx context.Context, repo *upstream.Repository, w, errs io.Writer) error {
	d := newDescriber(repo)
	look := func(ctx context.Context, tag oci.Tag) tagDetail {
		m, err := repo.Manifest(ctx, oci.Reference{Tag: tag})
		if err != nil {
			return tagDetail{tag: tag, err: err}
		}
		desc, err := d.describe(ctx, m)
		return tagDetail{tag: tag, digest: m.Digest, description: desc, err: err}
	}
	var write func(tagDetail) error
	var flush func() error
	if l.json {
		out := bufio.NewWriter(w)
		enc := json.NewEncoder(out)
		write = func(t tagDetail) error { return enc.Encode(t.line(repo.Name())) }
		flush = out.Flush
	} else {
		tab := newTable(w, "", "TAG", "DIGEST", "TYPE/PLATFORM", "SIZE", "CREATED")
		write = func(t tagDetail) error {
			return tab.row(string(t.tag), digestText(t.digest, l.noTrunc), t.kind(), sizeText(t.Size), ageText(t.Created))
		}
		flush = tab.flush
	}
	written, failed := 0, 0
	flushWritten := func() {
		if written > 0 {
			flush()
		}
	}
	for t, err := range inOrder(ctx, repo.Tags(ctx), l.parallel, look) {
		switch {
		case err != nil:
			flushWritten()
			return err
		case ctx.Err() != nil:
			flushWritten()
			return context.Cause(ctx)
		case errors.Is(t.err, upstream.ErrNotFound) && t.digest.IsZero():
			// Deleted since the list was made.
		case t.err != nil:
			failed++
			fmt.Fprintf(errs, "berth: tag %s: %s\n", t.tag, explain(t.err))
		default:
			written++
			if err := write(t); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d tags could not be described", failed)
	}
	return nil
}

func (t *tagDetail) line(repository oci.Repository) tagLine {
	line := tagLine{
		Repository:   repository,
		Tag:          t.tag,
		Digest:       t.digest,
		MediaType:    t.MediaType,
		ArtifactType: t.ArtifactType,
		Platforms:    platformNames(t.Platforms),
		Created:      t.Created,
	}
	if t.Size >= 0 {
		line.Size = &t.Size
	}
	return line
}
