package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// dockerHelper is the name under which docker finds this program as a credential helper: a link to berth.
const dockerHelper = "docker-credential-berth"

// arguments returns the arguments that a call of the program stands for.
func arguments(called string, args []string) []string {
	if strings.TrimSuffix(filepath.Base(called), ".exe") == dockerHelper {
		return append([]string{"credential", "docker"}, args...)
	}
	return args
}

func newCredentialCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "credential",
		Short: "Hand the token of a CI job or a pod to docker or the kubelet",
		Long: `Hand the token that a CI job or a pod has anyway to docker or the kubelet, in the place of a password. A registry with a trust
rule for it lets the job in as a robot (berth trust).

The token is the value of BERTH_TOKEN, the content of the file that BERTH_TOKEN_FILE names, or, in a job of GitHub Actions that may have
one (permissions: id-token: write), what GitHub gives for the audience BERTH_TOKEN_AUDIENCE, or else the registry's host.`,
	}
	cmd.AddCommand(newDockerCredentialCommand(), newKubeletCredentialCommand())
	return cmd
}

// maxCredentialInput is how many bytes docker or the kubelet may ask with, or an issuer answer with.
const maxCredentialInput = 1 << 20

func newDockerCredentialCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "docker get|list|store|erase",
		Short: "Be a credential helper of docker",
		Long: `Be a credential helper of docker and its like: link this program to docker-credential-berth in the PATH, and name it in
~/.docker/config.json:

  {"credHelpers": {"registry.example.com": "berth"}}

Nothing is stored: docker login and docker logout have nothing to do for such a registry.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			switch args[0] {
			case "get":
				in, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxCredentialInput))
				if err != nil {
					return err
				}
				server := strings.TrimSpace(string(in))
				token, err := workloadToken(cmd.Context(), hostOf(server))
				if errors.Is(err, errNoToken) {
					fmt.Fprintln(out, "credentials not found in native keychain") // which docker knows, and goes on as nobody
					return err
				}
				if err != nil {
					return err
				}
				return json.NewEncoder(out).Encode(struct{ ServerURL, Username, Secret string }{server, "token", token})
			case "list":
				_, err := fmt.Fprintln(out, "{}")
				return err
			case "store", "erase":
				return errors.New("the token of the job is the credential: there is nothing to sign in with or out of")
			}
			return usagef(cmd, "%q is none of get, list, store, erase", args[0])
		},
	}
}

// hostOf returns the host of a registry as docker names it, with a scheme and a path or without.
func hostOf(server string) string {
	if _, rest, ok := strings.Cut(server, "://"); ok {
		server = rest
	}
	host, _, _ := strings.Cut(server, "/")
	return host
}

var errNoToken = errors.New("there is no token: set BERTH_TOKEN or BERTH_TOKEN_FILE, or allow the job an ID token (GitHub: permissions: id-token: write)")

// workloadToken returns the token of the job or pod that this process is in.
func workloadToken(ctx context.Context, host string) (string, error) {
	if token := os.Getenv("BERTH_TOKEN"); token != "" {
		return token, nil
	}
	if file := os.Getenv("BERTH_TOKEN_FILE"); file != "" {
		b, err := os.ReadFile(file)
		return strings.TrimSpace(string(b)), err
	}
	address, bearer := os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), os.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if address == "" || bearer == "" {
		return "", errNoToken
	}
	audience := os.Getenv("BERTH_TOKEN_AUDIENCE")
	if audience == "" {
		audience = host
	}
	return gitHubToken(ctx, address, bearer, audience)
}

// gitHubToken asks GitHub Actions for the token of the job.
func gitHubToken(ctx context.Context, address, bearer, audience string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no URL")
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask GitHub for the token of the job: %w", err)
	}
	defer resp.Body.Close()
	var answer struct{ Value string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxCredentialInput)).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK || answer.Value == "" {
		return "", fmt.Errorf("ask GitHub for the token of the job: %s", resp.Status)
	}
	return answer.Value, nil
}

// kubeletVersions are those of the API credentialprovider.kubelet.k8s.io.
var kubeletVersions = map[string]bool{
	"credentialprovider.kubelet.k8s.io/v1": true, "credentialprovider.kubelet.k8s.io/v1beta1": true, "credentialprovider.kubelet.k8s.io/v1alpha1": true,
}

func newKubeletCredentialCommand() *cobra.Command {
	var cache time.Duration
	cmd := &cobra.Command{
		Use:   "kubelet",
		Short: "Be a credential provider of the kubelet",
		Long: `Be a credential provider of the kubelet: it reads a CredentialProviderRequest and writes a CredentialProviderResponse with the token of
the pod's service account (tokenAttributes in the kubelet's CredentialProviderConfig), or else with the one that BERTH_TOKEN_FILE names:

  apiVersion: kubelet.config.k8s.io/v1
  kind: CredentialProviderConfig
  providers:
    - name: berth
      apiVersion: credentialprovider.kubelet.k8s.io/v1
      matchImages: [registry.example.com]
      defaultCacheDuration: 5m
      args: [credential, kubelet]
      tokenAttributes:
        serviceAccountTokenAudience: registry.example.com
        cacheType: Token
        requireServiceAccount: true`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			type meta struct {
				Kind       string `json:"kind"`
				APIVersion string `json:"apiVersion"`
			}
			var request struct {
				meta
				Image               string `json:"image"`
				ServiceAccountToken string `json:"serviceAccountToken"`
			}
			if err := json.NewDecoder(io.LimitReader(cmd.InOrStdin(), maxCredentialInput)).Decode(&request); err != nil {
				return fmt.Errorf("read the request: %w", err)
			}
			if request.Kind != "CredentialProviderRequest" || !kubeletVersions[request.APIVersion] {
				return fmt.Errorf("the request is a %q of %q, not a CredentialProviderRequest of credentialprovider.kubelet.k8s.io/v1", request.Kind, request.APIVersion)
			}
			host, _, ok := strings.Cut(request.Image, "/")
			if !ok || host == "" {
				return fmt.Errorf("the image %q names no registry", request.Image)
			}
			token := request.ServiceAccountToken
			if token == "" {
				var err error
				if token, err = workloadToken(cmd.Context(), host); err != nil {
					return err
				}
			}
			type login struct {
				Username string `json:"username"`
				Password string `json:"password"`
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
				meta
				CacheKeyType  string           `json:"cacheKeyType"`
				CacheDuration string           `json:"cacheDuration"`
				Auth          map[string]login `json:"auth"`
			}{meta{"CredentialProviderResponse", request.APIVersion}, "Registry", cache.String(), map[string]login{host: {"token", token}}})
		},
	}
	cmd.Flags().DurationVar(&cache, "cache", 5*time.Minute, "how long the kubelet may keep the answer: less than the `TIME` that the token lives")
	return cmd
}
