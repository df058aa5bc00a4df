package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/upstream"
)

func newTrashCommand() *cobra.Command {
	m := new(management)
	return m.group("trash", "Show and empty the trash, where deleted manifests lie for a while", newTrashListCommand(m), newTrashEmptyCommand(m))
}

func newTrashListCommand(m *management) *cobra.Command {
	var noTrunc bool
	cmd := &cobra.Command{
		Use: "ls [HOST/][SCOPE]", Aliases: []string{"list"}, Short: "List deleted manifests that can be taken back",
		Long: "List deleted manifests that can be taken back, with the bytes of the manifest and its blobs, which others may need, too.\n\n" + scopeHelp,
		Example: `  berth trash ls
  berth trash ls team/
  berth trash ls --json team/app | jq -s 'map(.bytes) | add'`,
		Args: cobra.MaximumNArgs(1),
		RunE: m.onScope(func(cmd *cobra.Command, scope string) error {
			return listAll(cmd, m, "trash", url.Values{"scope": {scope}}, []string{"REPOSITORY", "DIGEST", "TAGS", "SIZE", "DELETED", "EXPIRES", "BY", "CREDENTIAL"},
				func(t admin.Trashed) []string {
					expires := ""
					if !t.Expires.IsZero() {
						expires = t.Expires.Format(time.RFC3339)
					}
					return []string{t.Repository, shortDigest(t.Digest, noTrunc), orDash(strings.Join(t.Tags, ",")), sizeText(t.Bytes), momentText(t.Deleted),
						orDash(expires), orDash(t.Actor), orDash(t.Credential)}
				})
		}),
	}
	cmd.Flags().BoolVar(&noTrunc, "no-trunc", false, "print digests in full")
	return cmd
}

func newTrashEmptyCommand(m *management) *cobra.Command {
	var digest string
	var execute bool
	cmd := &cobra.Command{
		Use: "empty [HOST/][SCOPE]", Short: "Delete what is in the trash for good",
		Long: `Delete what is in the trash for good, before its time is over. Bytes that nothing else needs are freed when their grace period has passed
(collection.grace). Without --yes it is counted only. The right that it needs is that of a delete.

` + scopeHelp,
		Example: `  berth trash empty team/app --yes
  berth trash empty team/app --digest sha256:0123… --yes`,
		Args: cobra.MaximumNArgs(1),
		RunE: m.onScope(func(cmd *cobra.Command, scope string) error {
			if execute {
				return m.emptyTrash(cmd, admin.EmptyOrder{Scope: scope, Digest: digest})
			}
			count, repositories := 0, make(map[string]bool)
			for t, err := range each[admin.Trashed](cmd.Context(), m, "trash", url.Values{"scope": {scope}}) {
				if err != nil {
					return err
				}
				if digest == "" || t.Digest == digest {
					count++
					repositories[t.Repository] = true
				}
			}
			if m.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]int{"manifests": count, "repositories": len(repositories)})
			}
			m.done(cmd, "%d manifests in the trash of %d repositories: nothing has been changed, --yes deletes them for good", count, len(repositories))
			return nil
		}),
	}
	cmd.Flags().StringVar(&digest, "digest", "", "only the manifest of this `DIGEST`, if SCOPE is a repository")
	cmd.Flags().BoolVar(&execute, "yes", false, "do it")
	return cmd
}

func (m *management) emptyTrash(cmd *cobra.Command, o admin.EmptyOrder) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	var count int64
	failed := 0
	for {
		var p admin.Page[admin.Emptied]
		if err := m.call(cmd.Context(), http.MethodPost, "trash/empty", o, &p); err != nil {
			return err
		}
		for _, e := range p.Items {
			count += e.Manifests
			if e.Problem != "" {
				failed++
				fmt.Fprintf(cmd.ErrOrStderr(), "berth: %s: %s\n", e.Repository, upstream.Printable(e.Problem))
			}
			if m.json {
				if err := enc.Encode(e); err != nil {
					return err
				}
			}
		}
		if o.After = p.Next; p.Next == "" {
			break
		}
	}
	m.done(cmd, "%d manifests have been deleted for good", count)
	if failed > 0 {
		return fmt.Errorf("the trash of %d repositories could not be emptied", failed)
	}
	return nil
}

func newUndeleteCommand() *cobra.Command {
	m := new(management)
	var since string
	cmd := &cobra.Command{
		Use: "undelete [HOST/]REPO[:TAG|@DIGEST]", Short: "Take back what was deleted",
		Long: `Take back what was deleted, as long as it is in the trash (trash.keep, a week by default): a tag, a manifest with the tags that it lost, or of a whole repository what was
deleted last, or with --since all that was deleted since a time. Tags that have been set anew since stay as they are. With a manifest come the children of an index, and
signatures and the like that were not deleted before it. The right that it needs is that of a push.` + managementHelp,
		Example: `  berth undelete team/app:1.0
  berth undelete team/app@sha256:0123…
  berth undelete team/app
  berth undelete team/app --since 24h`,
		Args: exactArgs("REPO[:TAG|@DIGEST]"),
		RunE: m.onReference(func(cmd *cobra.Command, ref reference) error {
			o := admin.UndeleteOrder{Repository: string(ref.name)}
			switch {
			case !ref.bare() && since != "":
				return usagef(cmd, "--since is for a whole repository")
			case !ref.digest.IsZero():
				o.Digest = ref.digest.String()
			default:
				o.Tag = string(ref.tag)
			}
			if since != "" {
				var err error
				if o.Since, err = pastQuery(cmd, "since", since); err != nil {
					return err
				}
			}
			return m.undelete(cmd, o)
		}),
	}
	cmd.Flags().StringVar(&since, "since", "", "all that was deleted since `TIME`: 24h, 7d, 2026-12-31 or 2026-12-31T12:00:00Z")
	m.addFlags(cmd.Flags())
	return cmd
}

func (m *management) undelete(cmd *cobra.Command, o admin.UndeleteOrder) error {
	out := cmd.OutOrStdout()
	enc, tab := json.NewEncoder(out), newTable(out, "", "REPOSITORY", "DIGEST", "TAGS", "LEFT AS THEY ARE", "PROBLEM")
	count, failed := 0, 0
	for {
		var p admin.Page[admin.Undeleted]
		if err := m.call(cmd.Context(), http.MethodPost, "trash/undelete", o, &p); err != nil {
			return err
		}
		for _, u := range p.Items {
			if count++; u.Problem != "" {
				failed++
			}
			var err error
			if m.json {
				err = enc.Encode(u)
			} else {
				err = tab.row(u.Repository, shortDigest(u.Digest, false), orDash(strings.Join(u.Tags, ",")), orDash(strings.Join(u.Taken, ",")), upstream.Printable(u.Problem))
			}
			if err != nil {
				return err
			}
		}
		if o.After = p.Next; p.Next == "" {
			break
		}
	}
	switch {
	case count == 0:
		return fmt.Errorf("there is nothing in the trash of %s to take back", o.Repository)
	case failed > 0:
		_ = tab.flush()
		return fmt.Errorf("%d manifests could not be taken back", failed)
	case m.json:
		return nil
	}
	return tab.flush()
}

func newRepoDeleteCommand() *cobra.Command {
	m := new(management)
	var execute bool
	cmd := &cobra.Command{
		Use: "delete [HOST/]REPO", Short: "Delete all that is in a repository",
		Long: `Delete all manifests and tags of a repository. Without --yes it is counted only. What is pushed meanwhile stays. It can be taken back with "berth undelete" as long as it
lies in the trash.` + managementHelp,
		Example: `  berth repo delete team/app
  berth repo delete team/app --yes`,
		Args: exactArgs("REPO"),
		RunE: m.onReference(func(cmd *cobra.Command, ref reference) error {
			if !ref.bare() {
				return usagef(cmd, "leave out the tag or digest: all of the repository would be deleted")
			}
			var held admin.Contents
			if err := m.call(cmd.Context(), http.MethodGet, "contents/"+string(ref.name), nil, &held); err != nil {
				return err
			}
			if !execute {
				if m.json {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(held)
				}
				m.done(cmd, "%s has %d tags, %d manifests, and %d blobs of %s in all: nothing has been changed, --yes deletes them",
					held.Repository, held.Tags, held.Manifests, held.Blobs, sizeText(held.Bytes))
				return nil
			}
			total := 0
			query := url.Values{"through": {strconv.FormatInt(held.Through, 10)}}
			for {
				var d admin.Deletion
				if err := m.call(cmd.Context(), http.MethodDelete, "repositories/"+string(ref.name)+"?"+query.Encode(), nil, &d); err != nil {
					return err
				}
				if total += d.Deleted; d.Next == "" {
					break
				}
				query.Set("deletion", d.Next)
			}
			if m.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(admin.Deletion{Deleted: total})
			}
			m.done(cmd, "%d manifests of %s have been deleted", total, held.Repository)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&execute, "yes", false, "do it")
	m.addFlags(cmd.Flags())
	return cmd
}
