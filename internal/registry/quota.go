package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/dustin/go-humanize"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// QuotaObserver hears of organizations that have a quota. It must be fast and safe for concurrent use.
type QuotaObserver interface {
	// Standing tells how an organization stands after a push.
	Standing(meta.Standing)
	// Refused tells of a push that did not fit.
	Refused(*meta.QuotaError)
}

// askRoom is from how many bytes on there is asked for room before they are taken in. To take in fewer costs about as much as to ask.
const askRoom = 1 << 20

// checkRoom fails if an upload of a declared size will be refused at its end. The digest is zero as long as nobody knows it.
func (g *Registry) checkRoom(ctx context.Context, r oci.Repository, d oci.Digest, size int64) error {
	if size < askRoom {
		return nil
	}
	if err := g.db.CheckRoom(ctx, r, d, size); err != nil {
		return fmt.Errorf("check the quota of %s: %w", r, g.refused(err))
	}
	return nil
}

// refused makes an answer of what a quota has refused, and leaves other errors as they are.
func (g *Registry) refused(err error) error {
	e, ok := errors.AsType[*meta.QuotaError](err)
	if !ok {
		return err
	}
	if g.opts.Quota != nil {
		g.opts.Quota.Refused(e)
	}
	return quotaExceeded(e)
}

// quotaExceeded tells a client what does not fit.
func quotaExceeded(e *meta.QuotaError) *oci.Error {
	type detail struct {
		Organization string        `json:"organization"`
		Resource     meta.Resource `json:"resource"`
		Limit        int64         `json:"limit"`
		Used         int64         `json:"used"`
		Needed       int64         `json:"needed"`
	}
	return oci.Errorf(oci.CodeDenied, "organization %s uses %s of the %s %s that its quota allows, and this needs %s more: delete what is not needed, or ask for a larger quota",
		e.Organization, humanize.Comma(e.Limit.Used), humanize.Comma(e.Limit.Limit), e.Limit.Resource, humanize.Comma(e.Needed)).
		WithDetail(detail{e.Organization, e.Limit.Resource, e.Limit.Limit, e.Limit.Used, e.Needed})
}

// stands tells the observer how an organization stands after a push, if it has a quota, and returns what its client is to be warned of.
func (g *Registry) stands(s meta.Standing) []string {
	if s.Quota.Organization == "" {
		return nil
	}
	if g.opts.Quota != nil {
		g.opts.Quota.Standing(s)
	}
	var warnings []string
	for _, l := range s.Near() {
		warnings = append(warnings, fmt.Sprintf("organization %s uses %s of the %s %s that its quota allows",
			s.Quota.Organization, humanize.Comma(l.Used), humanize.Comma(l.Limit), l.Resource))
	}
	return warnings
}
