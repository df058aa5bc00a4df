package main

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/upstream"
)

func newTrustCommand() *cobra.Command {
	m := new(management)
	return m.group("trust", "Manage whose tokens stand for robots", newTrustAddCommand(m), newTrustListCommand(m), newTrustRemoveCommand(m))
}

// trustFlags say whose tokens are trusted.
type trustFlags struct {
	issuer, audience                                         string
	claims                                                   []string
	github, gitlab, kubernetes                               string
	ref, refType, environment, workflow, repositoryID, owner string
	protected                                                bool
}

// rule returns what the flags say; host is the audience if none is given.
func (f *trustFlags) rule(host string) (*oidc.Rule, error) {
	if f.audience == "" {
		f.audience = host
	}
	var r *oidc.Rule
	var err error
	switch {
	case f.github != "":
		r, err = oidc.GitHub{Issuer: f.issuer, Audience: f.audience, Repository: f.github, RepositoryID: f.repositoryID, OwnerID: f.owner, Ref: f.ref,
			Environment: f.environment, Workflow: f.workflow}.Rule()
	case f.gitlab != "":
		r, err = oidc.GitLab{Issuer: f.issuer, Audience: f.audience, ProjectPath: f.gitlab, ProjectID: f.repositoryID, NamespaceID: f.owner, Ref: f.ref,
			RefType: f.refType, Protected: f.protected, Environment: f.environment}.Rule()
	case f.kubernetes != "":
		namespace, account, _ := strings.Cut(f.kubernetes, "/")
		r, err = oidc.Kubernetes{Issuer: f.issuer, Audience: f.audience, Namespace: namespace, ServiceAccount: account}.Rule()
	case f.issuer == "":
		return nil, errors.New("one of --github, --gitlab, --kubernetes and --issuer is needed")
	default:
		r = &oidc.Rule{Issuer: f.issuer, Audience: f.audience, Claims: make(map[string]oidc.Pattern)}
	}
	if err != nil {
		return nil, err
	}
	for _, claim := range f.claims {
		name, pattern, ok := strings.Cut(claim, "=")
		if !ok {
			return nil, errors.New("--claim: write NAME=PATTERN")
		}
		r.Claims[name] = oidc.Pattern(pattern)
	}
	return r, r.Validate()
}

func newTrustAddCommand(m *management) *cobra.Command {
	var f trustFlags
	cmd := &cobra.Command{
		Use: "add [ORG+]ROBOT", Short: "Let tokens of a CI service or cluster stand for a robot, so that it needs no secret",
		Long: `The audience is what jobs ask a token for: the host of this registry, if nothing else is said.`,
		Example: `  berth trust add team+ci --github octo-org/app --ref refs/heads/main
  berth trust add team+ci --gitlab group/app --ref main --protected
  berth trust add team+deploy --kubernetes prod/puller --issuer https://cluster.example.com
  berth trust add team+ci --issuer https://ci.example.com --claim sub=build`,
		Args: exactArgs("ROBOT"), ValidArgsFunction: complete(m, robotNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			rule, err := f.rule(m.host)
			if err != nil {
				return usagef(cmd, "%w", err)
			}
			var r admin.TrustRule
			if err := m.call(cmd.Context(), http.MethodPost, robotPath(args[0], "trust"), rule, &r); err != nil {
				return err
			}
			return m.show(cmd, r, [2]string{"ID", strconv.FormatInt(r.ID, 10)}, [2]string{"Issuer", r.Issuer}, [2]string{"Audience", r.Audience},
				[2]string{"Claims", claimTexts(r)}, [2]string{"Advice", strings.Join(r.Advice, " ")})
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.github, "github", "", "jobs of GitHub Actions in the repository `OWNER/NAME`, or OWNER/**")
	flags.StringVar(&f.gitlab, "gitlab", "", "jobs of GitLab CI in the `PROJECT`, or GROUP/**")
	flags.StringVar(&f.kubernetes, "kubernetes", "", "pods with the service account `NAMESPACE/NAME` of the cluster that --issuer names")
	flags.StringVar(&f.issuer, "issuer", "", "the `URL` of the issuer, if it is not github.com or gitlab.com")
	flags.StringVar(&f.audience, "audience", "", "what tokens must be made for, exactly this `TEXT` (default the host of the registry)")
	flags.StringArrayVar(&f.claims, "claim", nil, "what a claim must be, as `NAME=PATTERN`; may be repeated")
	flags.StringVar(&f.ref, "ref", "", "the branch or tag: refs/heads/main at GitHub, main at GitLab")
	flags.StringVar(&f.refType, "ref-type", "", "branch or tag, at GitLab (default branch with --ref)")
	flags.BoolVar(&f.protected, "protected", false, "protected branches and tags only, at GitLab")
	flags.StringVar(&f.environment, "environment", "", "the environment that the job is for")
	flags.StringVar(&f.workflow, "workflow", "", "the `FILE` of the workflow, at GitHub")
	flags.StringVar(&f.repositoryID, "repository-id", "", "the `ID` of the repository or project, which stays when its name changes hands")
	flags.StringVar(&f.owner, "owner-id", "", "the `ID` of the owner or group")
	cmd.MarkFlagsMutuallyExclusive("github", "gitlab", "kubernetes")
	return cmd
}

// claimTexts lists what claims must be.
func claimTexts(r admin.TrustRule) string {
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(r.Claims)) {
		texts = append(texts, name+"="+string(r.Claims[name]))
	}
	return strings.Join(texts, " ")
}

func newTrustListCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "list [ORG+]ROBOT", Aliases: []string{"ls"}, Short: "List whose tokens stand for a robot", Args: exactArgs("ROBOT"), ValidArgsFunction: complete(m, robotNames),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			return listAll(cmd, m, robotPath(args[0], "trust"), nil, []string{"ID", "ISSUER", "AUDIENCE", "CLAIMS"}, func(r admin.TrustRule) []string {
				return []string{strconv.FormatInt(r.ID, 10), r.Issuer, r.Audience, upstream.Printable(claimTexts(r))}
			})
		}),
	}
}

func newTrustRemoveCommand(m *management) *cobra.Command {
	return &cobra.Command{
		Use: "remove [ORG+]ROBOT ID", Aliases: []string{"rm"}, Short: "Trust no more, at once", Args: exactArgs("ROBOT", "ID"), ValidArgsFunction: complete(m, robotNames, idsOf("trust")),
		RunE: m.run(func(cmd *cobra.Command, args []string) error {
			if err := m.call(cmd.Context(), http.MethodDelete, robotPath(args[0], "trust", args[1]), nil, nil); err != nil {
				return err
			}
			m.done(cmd, "Trust rule %s is removed.", args[1])
			return nil
		}),
	}
}
