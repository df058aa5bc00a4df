package deploy

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/berthregistry/berth/test/harness"
)

// helm runs Helm as for a cluster of today.
func helm(t *testing.T, verb string, args ...string) (*harness.Client, []string) {
	t.Helper()
	return harness.NewClient(t, "helm"), append([]string{verb, "--kube-version", "1.32.0"}, args...)
}

func chart() string { return deployed("helm", "berth") }

// valuesFiles returns the values that the chart is tested with.
func valuesFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chart(), "ci", "*-values.yaml"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files of values (%v)", len(files), err)
	}
	return files
}

// render returns the objects that the chart makes of a file of values and of settings.
func render(t *testing.T, values string, set ...string) []any {
	t.Helper()
	args := []string{"registry", chart(), "--values", filepath.Join(chart(), "ci", values+"-values.yaml")}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	c, args := helm(t, "template", args...)
	return decode(t, c.Run(args...))
}

func TestHelmLint(t *testing.T) {
	t.Parallel()
	for _, values := range valuesFiles(t) {
		c, args := helm(t, "lint", "--strict", chart(), "--values", values)
		harness.Contains(t, c.RunAll(args...), "1 chart(s) linted, 0 chart(s) failed")
	}
}

// What holds for every installation.
func TestHelmObjects(t *testing.T) {
	t.Parallel()
	for _, file := range valuesFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			c, args := helm(t, "template", "registry", chart(), "--values", file)
			text := c.Run(args...)
			all := decode(t, text)
			d, config := one[deployment](t, all), one[configMap](t, all)
			spec := d.Spec.Template.Spec
			berth := spec.Containers[0]

			if !spec.SecurityContext.RunAsNonRoot || spec.SecurityContext.RunAsUser != 65532 || !berth.Security.ReadOnlyRootFilesystem ||
				berth.Security.AllowPrivilegeEscalation == nil || *berth.Security.AllowPrivilegeEscalation ||
				!slices.Equal(berth.Security.Capabilities.Drop, []string{"ALL"}) || spec.SecurityContext.SeccompProfile.Type != "RuntimeDefault" {
				t.Errorf("the pod may do too much: %+v, %+v", spec.SecurityContext, berth.Security)
			}
			if berth.LivenessProbe.HTTPGet.Path != "/livez" || berth.LivenessProbe.HTTPGet.Port != "http" || berth.ReadinessProbe.HTTPGet.Path == "" {
				t.Errorf("the probes are %+v and %+v", berth.LivenessProbe, berth.ReadinessProbe)
			}
			if berth.Resources.Limits["memory"] == "" || berth.Resources.Requests["cpu"] == "" {
				t.Errorf("resources are %+v", berth.Resources)
			}
			if spec.AutomountToken == nil || *spec.AutomountToken {
				t.Error("the pod has a token of Kubernetes")
			}

			// The time that Kubernetes gives is more than the pod takes.
			var settings struct {
				Timeouts struct{ Stop string }
				Log      struct{ Format string }
			}
			if err := yaml.Unmarshal([]byte(config.Data["berth.yaml"]), &settings); err != nil {
				t.Fatal(err)
			}
			var stop int
			if _, err := fmt.Sscanf(settings.Timeouts.Stop, "%ds", &stop); err != nil || stop < 1 {
				t.Fatalf("timeouts.stop is %q", settings.Timeouts.Stop)
			}
			if wait := berth.Lifecycle.PreStop.Sleep.Seconds; wait < 1 || spec.GracePeriod <= wait+stop {
				t.Errorf("%d seconds to stop, of which %d are waited and %d are for requests", spec.GracePeriod, wait, stop)
			}
			if settings.Log.Format != "json" {
				t.Errorf("the configuration of the user was lost: %s", config.Data["berth.yaml"])
			}

			// Labels by which objects find each other. The test pod is not found by the Service.
			find := func(what string, wanted map[string]string) {
				t.Helper()
				if len(wanted) < 2 || !within(wanted, d.Spec.Template.Metadata.Labels) {
					t.Errorf("%s selects %v, the pods have %v", what, wanted, d.Spec.Template.Metadata.Labels)
				}
			}
			find("the Deployment", d.Spec.Selector.MatchLabels)
			for _, s := range of[service](all) {
				find("the Service "+s.Metadata.Name, s.Spec.Selector)
				if within(s.Spec.Selector, one[pod](t, all).Metadata.Labels) {
					t.Errorf("the Service %s finds the pod of the test", s.Metadata.Name)
				}
			}
			for _, p := range of[disruptionBudget](all) {
				find("the PodDisruptionBudget", p.Spec.Selector.MatchLabels)
			}
			for _, p := range of[networkPolicy](all) {
				find("the NetworkPolicy", p.Spec.PodSelector.MatchLabels)
			}
			for _, s := range spec.TopologySpread {
				find("the spread over "+s.TopologyKey, s.LabelSelector.MatchLabels)
			}
			for _, m := range of[serviceMonitor](all) {
				found := 0
				for _, s := range of[service](all) {
					if within(m.Spec.Selector.MatchLabels, s.Metadata.Labels) {
						found++
					}
				}
				if found != 1 {
					t.Errorf("the ServiceMonitor finds %d Services", found)
				}
			}

			// Every volume is mounted, every mount has its volume.
			var volumes, mounts []string
			for _, v := range spec.Volumes {
				volumes = append(volumes, v.Name)
			}
			for _, m := range berth.VolumeMounts {
				mounts = append(mounts, m.Name)
			}
			slices.Sort(volumes)
			slices.Sort(mounts)
			if !slices.Equal(volumes, mounts) || len(slices.Compact(volumes)) != len(mounts) {
				t.Errorf("volumes %q, mounts %q", volumes, mounts)
			}

			// No secret can come into a ConfigMap, because none comes into the chart: each is the name of a file.
			for line := range strings.Lines(config.Data["berth.yaml"]) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				if slices.Contains([]string{"database", "access_key_id", "secret_access_key", "session_token", "token", "bind_password", "client_secret"}, key) &&
					!strings.HasPrefix(value, "file:/etc/berth/secrets/") && value != "" {
					t.Errorf("a secret stands in the ConfigMap: %s", line)
				}
			}
			if strings.Contains(text, "\nkind: Secret\n") {
				t.Error("the chart makes a Secret: its values would be kept in the release")
			}
		})
	}
}

// within tells whether all of some labels are among others.
func within(some, all map[string]string) bool {
	for key, value := range some {
		if all[key] != value {
			return false
		}
	}
	return true
}

// One process at a time can use a data folder: there is never a second pod, not even while the first one is replaced.
func TestHelmEmbeddedModeHasOnePod(t *testing.T) {
	t.Parallel()
	for _, set := range [][]string{nil, {"replicas=5"}, {"podDisruptionBudget.enabled=true"}} {
		all := render(t, "embedded", set...)
		d := one[deployment](t, all)
		if d.Spec.Replicas == nil || *d.Spec.Replicas != 1 || d.Spec.Strategy.Type != "Recreate" || d.Spec.Strategy.RollingUpdate != nil {
			t.Errorf("%v: %+v", set, d.Spec.Strategy)
		}
		if len(of[autoscaler](all))+len(of[disruptionBudget](all)) != 0 {
			t.Errorf("%v: one pod is scaled, or has a budget that would keep its node from being drained", set)
		}
	}
	all := render(t, "embedded")
	c := one[claim](t, all)
	if v := volumeNamed(t, all, "data"); v.Claim == nil || v.Claim.Name != c.Metadata.Name {
		t.Errorf("the data is on %+v, not on the claim %s", v, c.Metadata.Name)
	}
	if c.Metadata.Annotations["helm.sh/resource-policy"] != "keep" {
		t.Error("the data goes with the release")
	}
	all = render(t, "embedded", "persistence.existingClaim=mine")
	if v := volumeNamed(t, all, "data"); v.Claim == nil || v.Claim.Name != "mine" || len(of[claim](all)) != 0 {
		t.Errorf("the data is on %+v, not on the user's claim", v)
	}
}

func volumeNamed(t *testing.T, all []any, name string) volume {
	t.Helper()
	for _, v := range one[deployment](t, all).Spec.Template.Spec.Volumes {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("there is no volume %s", name)
	return volume{}
}

func TestHelmStatelessMode(t *testing.T) {
	t.Parallel()
	all := render(t, "stateless")
	d := one[deployment](t, all)
	if d.Spec.Replicas == nil || *d.Spec.Replicas != 3 || d.Spec.Strategy.Type != "RollingUpdate" || d.Spec.Strategy.RollingUpdate.MaxUnavailable != 0 {
		t.Errorf("%+v", d.Spec)
	}
	if len(of[claim](all)) != 0 {
		t.Error("a node that keeps nothing has a volume")
	}
	// The uploads that a pod accepts have room in its memory, at 48 MiB each.
	var settings struct{ Limits struct{ Uploads int } }
	if err := yaml.Unmarshal([]byte(one[configMap](t, all).Data["berth.yaml"]), &settings); err != nil {
		t.Fatal(err)
	}
	if n, memory := settings.Limits.Uploads, d.Spec.Template.Spec.Containers[0].Resources.Limits["memory"]; n < 1 || n*48 > 3*512 || memory != "2Gi" {
		t.Errorf("%d uploads at 48 MiB in %s of memory", n, memory)
	}
	all = render(t, "stateless", "config.limits.uploads=100")
	harness.Contains(t, one[configMap](t, all).Data["berth.yaml"], "uploads: 100")
	if n := one[disruptionBudget](t, all).Spec.MaxUnavailable; n != 1 {
		t.Errorf("%v pods may be taken away", n)
	}
	if a := one[serviceAccount](t, all); a.Metadata.Annotations["eks.amazonaws.com/role-arn"] == "" || a.Metadata.Name != d.Spec.Template.Spec.ServiceAccountName {
		t.Errorf("the identity of the pods is %+v", a.Metadata)
	}
	if v := volumeNamed(t, all, "database"); v.Secret == nil || v.Secret.SecretName != "registry-database" || v.Secret.Items[0].Key != "url" {
		t.Errorf("the database's URL comes from %+v", v)
	}
	for _, v := range d.Spec.Template.Spec.Volumes {
		if v.Name == "s3" {
			t.Error("keys are mounted, although there are none")
		}
	}
}

func TestHelmEverything(t *testing.T) {
	t.Parallel()
	all := render(t, "everything")
	d := one[deployment](t, all)
	if d.Spec.Replicas != nil {
		t.Error("a number of replicas would fight with the autoscaler")
	}
	if a := one[autoscaler](t, all); a.Spec.Target.Name != d.Metadata.Name || a.Spec.Min != 4 || a.Spec.Max != 20 {
		t.Errorf("%+v", a.Spec)
	}
	if got := d.Spec.Template.Spec.Containers[0].Image; !strings.HasPrefix(got, "registry.example.com/tools/berth@sha256:") {
		t.Errorf("the image is %q", got)
	}
	i := one[ingress](t, all)
	if len(i.Spec.Rules) != 1 || i.Spec.Rules[0].Host != "registry.example.com" || i.Spec.Rules[0].HTTP.Paths[0].Backend.Service.Name != d.Metadata.Name {
		t.Errorf("%+v", i.Spec)
	}
	p := one[networkPolicy](t, all)
	if len(p.Spec.Ingress) != 2 || len(p.Spec.Ingress[0].From) != 1 || p.Spec.Ingress[0].Ports[0].Port != "http" || len(p.Spec.Egress) != 2 || p.Spec.Egress[0].Ports[0].Port != 53 {
		t.Errorf("%+v", p.Spec)
	}
	if m := one[serviceMonitor](t, all); m.Spec.Endpoints[0].Authorization.Credentials.Name != "registry-metrics" {
		t.Errorf("%+v", m.Spec)
	}
	// A policy without peers is for the namespace, not for everyone.
	all = render(t, "stateless", "networkPolicy.enabled=true")
	for _, rule := range one[networkPolicy](t, all).Spec.Ingress {
		if len(rule.From) != 1 || rule.From[0]["podSelector"] == nil {
			t.Errorf("the policy lets in %+v", rule.From)
		}
	}
}

// Access control is switched on by values, and what is secret about it comes from Secrets.
func TestHelmAccessControl(t *testing.T) {
	t.Parallel()
	all := render(t, "auth")
	if v := volumeNamed(t, all, "auth"); v.Secret == nil || v.Secret.SecretName != "registry-auth" || len(v.Secret.Items) != 0 {
		t.Errorf("the secrets come from %+v", v)
	}
	var settings struct {
		Open bool   `yaml:"insecure_open"`
		URL  string `yaml:"external_url"`
		Auth struct {
			Enabled  bool
			Lifetime string `yaml:"token_lifetime"`
			LDAP     struct {
				Password string `yaml:"bind_password"`
			}
		}
		TLS struct{ Certificate, Key string }
	}
	load := func(all []any) {
		t.Helper()
		settings.TLS.Certificate = ""
		if err := yaml.Unmarshal([]byte(one[configMap](t, all).Data["berth.yaml"]), &settings); err != nil {
			t.Fatal(err)
		}
	}
	load(all)
	if a := settings.Auth; !a.Enabled || a.Lifetime != "10m" || a.LDAP.Password != "file:/etc/berth/secrets/auth/ldap-password" || settings.Open || settings.URL != "https://registry.example.com" {
		t.Errorf("%+v", settings)
	}
	i := one[ingress](t, all)
	if i.Metadata.Annotations["cert-manager.io/cluster-issuer"] != "letsencrypt" || len(i.Spec.TLS) != 1 || i.Spec.TLS[0].SecretName != "registry-tls" {
		t.Errorf("%+v", i)
	}
	if args := one[pod](t, all).Spec.Containers[0].Args; !slices.Equal(args, []string{"repo", "ls", "--insecure", "--registry", "registry.example.com"}) {
		t.Errorf("helm test runs %q, but clients are sent to sign in at registry.example.com", args)
	}
	berth := func(all []any) container { return one[deployment](t, all).Spec.Template.Spec.Containers[0] }
	for _, p := range []*probe{berth(all).StartupProbe, berth(all).LivenessProbe, berth(all).ReadinessProbe} {
		if p.HTTPGet.Scheme != "HTTP" {
			t.Errorf("%+v", p.HTTPGet)
		}
	}

	// TLS in the pod: probes and the test speak it, and the certificate is a folder, which Kubernetes keeps up to date.
	all = render(t, "tls")
	load(all)
	if settings.TLS.Certificate != "/etc/berth/secrets/tls/tls.crt" || settings.TLS.Key != "/etc/berth/secrets/tls/tls.key" || settings.Open {
		t.Errorf("%+v", settings)
	}
	for _, p := range []*probe{berth(all).StartupProbe, berth(all).LivenessProbe, berth(all).ReadinessProbe} {
		if p.HTTPGet.Scheme != "HTTPS" {
			t.Errorf("%+v", p.HTTPGet)
		}
	}
	if v := volumeNamed(t, all, "tls"); v.Secret == nil || v.Secret.SecretName != "registry-tls" {
		t.Errorf("the certificate comes from %+v", v)
	}
	if v := volumeNamed(t, all, "tls-client-ca"); v.Secret == nil || v.Secret.SecretName != "registry-clients" || v.Secret.Items[0].Key != "ca.crt" {
		t.Errorf("the authorities come from %+v", v)
	}
	if args := one[pod](t, all).Spec.Containers[0].Args; !slices.Equal(args, []string{"repo", "ls", "--insecure", "--registry", "registry-berth:443"}) {
		t.Errorf("helm test runs %q", args)
	}
}

// The binary accepts every configuration that the chart renders, with the secrets where the pod has them.
func TestHelmConfiguration(t *testing.T) {
	t.Parallel()
	check := func(name string, all []any) {
		t.Run(name, func(t *testing.T) {
			text := one[configMap](t, all).Data["berth.yaml"]
			spec, dir, cert := one[deployment](t, all).Spec.Template.Spec, t.TempDir(), harness.NewCert(t)
			for _, m := range spec.Containers[0].VolumeMounts {
				if !strings.HasPrefix(m.MountPath, "/etc/berth/") {
					continue
				}
				v := volumeNamed(t, all, m.Name)
				if v.Secret == nil {
					continue
				}
				for _, item := range v.Secret.Items {
					content := "secret"
					switch m.Name {
					case "database":
						content = "postgres://user:password@host:5432/berth?sslmode=verify-full"
					case "s3-ca", "tls-client-ca":
						content = read(t, cert.CertFile)
					case "tls":
						content = read(t, map[string]string{"tls.crt": cert.CertFile, "tls.key": cert.KeyFile}[item.Path])
					}
					write(t, filepath.Join(dir, m.MountPath, item.Path), content)
				}
			}
			if slices.ContainsFunc(spec.Volumes, func(v volume) bool { return v.Name == "auth" }) {
				write(t, filepath.Join(dir, "/etc/berth/secrets/auth/ldap-password"), "secret") // a key of a Secret that is mounted as a whole
			}
			text = strings.ReplaceAll(text, "/etc/berth/", dir+"/etc/berth/")
			write(t, filepath.Join(dir, "berth.yaml"), text)
			checkConfig(t, filepath.Join(dir, "berth.yaml"))
			if strings.Contains(text, "insecure_open: true") == strings.Contains(text, "\n  enabled: true") {
				t.Errorf("the pods are open to everybody, or to nobody:\n%s", text)
			}
		})
	}
	for _, values := range []string{"embedded", "stateless", "everything", "auth", "tls"} {
		check(values, render(t, values))
	}
	for i, set := range [][]string{
		{"s3.redirect=off", "s3.pathStyle=on"}, {"s3.redirect=https://bucket.example.com"}, {"s3.encryption=s3"},
		{"metrics.enabled=false"}, {"stop.timeoutSeconds=5"}, {"s3.endpoint=http://minio:9000", "s3.existingSecret=keys"},
	} {
		check(fmt.Sprint("stateless with ", i), render(t, "stateless", set...))
	}
}

// What cannot work is refused with words, before anything is installed.
func TestHelmRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ values, set, message string }{
		{"", "mode=embedded", "--set insecureOpen=true"},
		{"", "mode=embedded", "--set auth.enabled=true"},
		{"", "auth.enabled=true", "passwords must not be read on the way"},
		{"", "auth.enabled=true,externalURL=http://registry.example.com", "passwords must not be read on the way"},
		{"", "auth.enabled=true,externalURL=https://registry.example.com", "metrics need a token"},
		{"auth", "insecureOpen=true", "exclude each other"},
		{"auth", "trustedProxies=null", "needs externalURL, so that clients are sent to sign in there, and trustedProxies"},
		{"auth", "config.auth.ldap.bind_password=secret", "config.auth.ldap.bind_password: a secret has no place in values"},
		{"auth", "config.auth.oidc[0].client_secret=secret", "config.auth.oidc[0].client_secret: a secret has no place in values"},
		{"auth", "config.auth.enabled=false", "set auth.enabled instead"},
		{"auth", "auth.password=secret", "password"},
		{"embedded", "auth.existingSecret=secrets", "auth.existingSecret is for auth.enabled"},
		{"embedded", "tls.clientCASecret=clients", "set tls.existingSecret"},
		{"embedded", "config.tls.certificate=/tls.crt", "config.tls: the chart sets this one"},
		{"", "insecureOpen=false", "whoever reaches its Service can pull, push and delete"},
		{"", "insecureOpen=true,mode=stateless", "mode stateless needs database.existingSecret"},
		{"", "insecureOpen=true,mode=stateless,database.existingSecret=db", "mode stateless needs s3.bucket"},
		{"embedded", "database.existingSecret=db", "database and s3 are for mode stateless"},
		{"embedded", "s3.bucket=registry", "database and s3 are for mode stateless"},
		{"embedded", "autoscaling.enabled=true", "mode embedded has one pod"},
		{"embedded", "mode=clustered", "mode"},
		{"stateless", "config.database=postgres://user:password@host/db", "config.database: the chart sets this one"},
		{"stateless", "config.storage.s3.secret_access_key=key", "config.storage: the chart sets this one"},
		{"stateless", "config.listen=:80", "config.listen: the chart sets this one"},
		{"stateless", "config.timeouts.stop=5m", "set stop.timeoutSeconds instead"},
		{"stateless", "ingress.enabled=true", "ingress.enabled needs ingress.hosts"},
		{"stateless", "replica=4", "replica"},
		{"stateless", "s3.secretAccessKey=key", "secretAccessKey"},
		{"stateless", "s3.encryption=yes", "encryption"},
		{"stateless", "replicas=three", "replicas"},
		{"stateless", "probes.readinessPath=/", "readinessPath"},
		{"stateless", "stop.delaySeconds=0", "delaySeconds"},
		{"stateless", "image.digest=latest", "digest"},
	} {
		args := []string{"registry", chart(), "--set", c.set}
		if c.values != "" {
			args = append(args, "--values", filepath.Join(chart(), "ci", c.values+"-values.yaml"))
		}
		client, args := helm(t, "template", args...)
		harness.Contains(t, client.Fail(args...), c.message)
	}
}

// Every value has its place in the schema, so that a misspelt one is refused.
func TestHelmSchemaKnowsEveryValue(t *testing.T) {
	t.Parallel()
	var values map[string]any
	if err := yaml.Unmarshal([]byte(read(t, filepath.Join(chart(), "values.yaml"))), &values); err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Properties map[string]schema
	}
	var top schema
	if err := yaml.Unmarshal([]byte(read(t, filepath.Join(chart(), "values.schema.json"))), &top); err != nil {
		t.Fatal(err)
	}
	var compare func(path string, values map[string]any, s schema)
	compare = func(path string, values map[string]any, s schema) {
		got, want := slices.Sorted(maps.Keys(s.Properties)), slices.Sorted(maps.Keys(values))
		got = slices.DeleteFunc(got, func(key string) bool { return path == "" && key == "global" })
		if !slices.Equal(got, want) {
			t.Errorf("%s: the schema knows %q, values.yaml has %q", path, got, want)
		}
		for key, value := range values {
			if section, ok := value.(map[string]any); ok && len(s.Properties[key].Properties) > 0 {
				compare(path+"."+key, section, s.Properties[key])
			}
		}
	}
	compare("", values, top)
}
