package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

// copyCommand is what "berth copy" was asked to do.
type copyCommand struct {
	conn         connection // of both ends
	src, dst     connection // beside conn, of one end
	allTags      bool
	platform     string
	referrers    bool
	parallel     int
	quiet        bool
	from, to     reference
	stdout, errs io.Writer
}

func newCopyCommand() *cobra.Command {
	var c copyCommand
	cmd := &cobra.Command{
		Use:     "copy SRC DST",
		Aliases: []string{"cp"},
		Short:   "Copy an image or a whole repository from any registry to any registry",
		Long: `Copy the manifest at SRC to DST with everything below it: an index comes with the images of all
platforms. Bytes and digests stay exactly the same. What DST has already is not sent again, so a
copy that was interrupted goes on when it is repeated; within one registry, blobs are
linked instead of sent. Nothing is deleted at DST, but a tag there is overwritten.

SRC is [HOST/]REPO[:TAG|@DIGEST], "latest" if neither is given; DST is [HOST/]REPO[:TAG], with the tag of
SRC if none is given. With --all-tags both are repositories.

Layers that are fetched from elsewhere ("foreign", as in Windows base images) are not copied.`,
		Example: `  berth copy docker.io/library/alpine:3.22 alpine:3.22
  berth copy --referrers team/app:1.0 registry.example.com/team/app:1.0
  berth copy --all-tags old.example.com/team/app team/app`,
		Args: exactArgs("SRC", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.stdout, c.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
			opt, err := c.parse(args)
			if err != nil {
				return usagef(cmd, "%w", err)
			}
			return c.run(cmd.Context(), opt)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&c.allTags, "all-tags", false, "copy every tag of the repository")
	flags.StringVar(&c.platform, "platform", "", "copy only the image for `OS/ARCH[/VARIANT]` out of an index")
	flags.BoolVar(&c.referrers, "referrers", false, "copy signatures, SBOMs and what else refers to the images")
	flags.IntVar(&c.parallel, "parallel", 4, "transfer `N` blobs at a time")
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "show no progress")
	c.conn.addFlags(flags)
	flags.BoolVar(&c.src.plainHTTP, "src-plain-http", false, "--plain-http for SRC alone")
	flags.BoolVar(&c.dst.plainHTTP, "dst-plain-http", false, "--plain-http for DST alone")
	flags.BoolVar(&c.src.insecure, "src-insecure", false, "--insecure for SRC alone")
	flags.BoolVar(&c.dst.insecure, "dst-insecure", false, "--insecure for DST alone")
	for end, conn := range map[string]*connection{"src": &c.src, "dst": &c.dst} {
		upper := strings.ToUpper(end)
		flags.StringVar(&conn.cert, end+"-cert", "", "--cert for "+upper+" alone, `FILE`")
		flags.StringVar(&conn.key, end+"-key", "", "--key for "+upper+" alone, `FILE`")
	}
	return cmd
}

// parse reads the arguments. Its errors are mistakes of the caller.
func (c *copyCommand) parse(args []string) (upstream.CopyOptions, error) {
	opt := upstream.CopyOptions{Referrers: c.referrers, Parallel: c.parallel}
	var err error
	if c.from, err = parseReference(args[0], defaultRegistry()); err != nil {
		return opt, err
	}
	if c.to, err = parseReference(args[1], defaultRegistry()); err != nil {
		return opt, err
	}
	if opt.Platform, err = parsePlatform(c.platform); err != nil {
		return opt, fmt.Errorf("--platform: %w", err)
	}
	switch {
	case c.parallel < 1:
		return opt, fmt.Errorf("--parallel must be at least 1")
	case !c.to.digest.IsZero():
		return opt, fmt.Errorf("%q: the destination is a repository or a tag: its digest follows from the source", args[1])
	case c.allTags && !c.from.bare():
		return opt, fmt.Errorf("%q: with --all-tags, the source is a repository without a tag or digest", args[0])
	case c.allTags && !c.to.bare():
		return opt, fmt.Errorf("%q: with --all-tags, the destination is a repository without a tag", args[1])
	case c.allTags && c.from.repository() == c.to.repository():
		return opt, fmt.Errorf("source and destination are the same repository")
	}
	return opt, nil
}

func (c *copyCommand) run(ctx context.Context, opt upstream.CopyOptions) error {
	from, to, err := c.connect(ctx)
	if err != nil {
		return err
	}
	progress := newProgress(c.errs, c.quiet)
	opt.Observer = progress
	copier := upstream.NewCopier(from, to, opt)
	if c.allTags {
		err = c.copyTags(ctx, copier, from, progress)
	} else {
		err = c.copyOne(ctx, copier, progress)
	}
	if err == nil {
		err = copier.Referrers(ctx)
	}
	progress.close(err == nil)
	return err
}

// connect returns clients of both repositories, which share the registry's if it is the same.
func (c *copyCommand) connect(ctx context.Context) (from, to *upstream.Repository, err error) {
	src, dst := c.conn.with(c.src), c.conn.with(c.dst)
	client, err := src.client(ctx, c.from.host)
	if err != nil {
		return nil, nil, err
	}
	from = client.Repository(c.from.name)
	if c.to.host == c.from.host && src == dst {
		return from, client.Repository(c.to.name), nil
	}
	to, err = dst.repository(ctx, c.to)
	return from, to, err
}

func (c *copyCommand) copyOne(ctx context.Context, copier *upstream.Copier, progress *progress) error {
	tag := c.to.tag
	if tag == "" {
		tag = c.from.tag
	}
	if tag == "" && c.from.digest.IsZero() {
		tag = c.from.manifest().Tag
	}
	desc, err := copier.Copy(ctx, c.from.manifest(), tag)
	if err != nil {
		return err
	}
	return progress.print(c.stdout, c.copied(tag, desc))
}

// copied names what was copied, as docker pull takes it.
func (c *copyCommand) copied(tag oci.Tag, desc oci.Descriptor) string {
	s := c.to.repository()
	if tag != "" {
		s += ":" + string(tag)
	}
	return s + "@" + desc.Digest.String()
}

// copyTags copies every tag. One that fails does not keep the others from being copied; each
// failure is printed, and all are counted in the error.
func (c *copyCommand) copyTags(ctx context.Context, copier *upstream.Copier, from *upstream.Repository, progress *progress) error {
	var mu sync.Mutex
	total, failed := 0, 0
	var group errgroup.Group
	group.SetLimit(c.parallel)
	var listing error
	for tag, err := range from.Tags(ctx) {
		if err != nil {
			listing = err
			break
		}
		total++
		group.Go(func() error {
			desc, err := copier.Copy(ctx, oci.Reference{Tag: tag}, tag)
			if err == nil {
				return progress.print(c.stdout, c.copied(tag, desc))
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			mu.Lock()
			failed++
			mu.Unlock()
			return progress.print(c.errs, fmt.Sprintf("berth: tag %s: %s", tag, explain(err)))
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if listing != nil {
		return listing
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d tags were not copied", failed, total)
	}
	return nil
}
