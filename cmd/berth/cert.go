package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/certificate"
)

func newCertCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Make certificates for a registry that no public authority vouches for",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newCertSelfSignedCommand(), newCertClientCommand())
	return cmd
}

// certFolder is the flag that says where certificates are.
const certFolder = "./berth-tls"

func newCertSelfSignedCommand() *cobra.Command {
	var dir string
	var port int
	cmd := &cobra.Command{
		Use:   "self-signed HOST...",
		Short: "Make an authority and a certificate for a server, and say how clients come to trust it",
		Long: `Make ca.crt and ca.key, an authority of your own, and server.crt and server.key, a certificate that it issues
for a server of the given names and addresses. Then print the commands that make clients trust ca.crt.

Nothing is overwritten. If the folder has an authority already, it issues the certificate, so that nothing changes for
clients. Keep ca.key safe, away from the server: who has it can pretend to be any host to those who trust ca.crt.`,
		Example: `  berth cert self-signed registry.lan 192.168.1.10
  berth serve --tls-certificate berth-tls/server.crt --tls-key berth-tls/server.key`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("HOST is missing")
			}
			for _, host := range args {
				if err := checkHost(host); err != nil {
					return err
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, hosts []string) error {
			if port < 1 || port > 65535 {
				return usagef(cmd, "--port must be between 1 and 65535")
			}
			f := &certFiles{dir: dir}
			f.refuse("server.crt", "server.key")
			authority := f.authority(true)
			f.issue("server", func() ([]byte, []byte, error) { return authority.Server(hosts) })
			if f.err != nil {
				return f.err
			}
			return tellTrust(cmd.OutOrStdout(), dir, hosts, port)
		},
	}
	cmd.Flags().StringVar(&dir, "out", certFolder, "write to `FOLDER`")
	cmd.Flags().IntVar(&port, "port", 5000, "the port of the registry, for the commands that are printed")
	return cmd
}

func newCertClientCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "client NAME",
		Short: "Make a certificate by which a client proves its name",
		Long: `Make NAME.crt and NAME.key, which the authority in the folder issues: see "berth cert self-signed". A server with the
setting tls.client_ca, which names ca.crt, knows the client by it.`,
		Example: "  berth cert client build-42",
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if strings.Trim(name, ".") == "" || len(name) > 64 || strings.ContainsAny(name, `/\`) || name == "ca" || name == "server" {
				return usagef(cmd, "%q cannot be the name of a file beside ca.crt and server.crt", name)
			}
			f := &certFiles{dir: dir}
			f.refuse(name+".crt", name+".key")
			authority := f.authority(false)
			f.issue(name, func() ([]byte, []byte, error) { return authority.Client(name) })
			if f.err != nil {
				return f.err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "wrote %s and its key\n", filepath.Join(dir, name+".crt"))
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "out", certFolder, "the `FOLDER` of the authority, and to write to")
	return cmd
}

// checkHost tells whether a certificate can name a host.
func checkHost(host string) error {
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
		return nil
	}
	name := strings.TrimPrefix(host, "*.")
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return fmt.Errorf("%q is neither the name nor the address of a host: leave out scheme and port", host)
		}
	}
	return nil
}

// certFiles writes into a folder what is not there yet. After the first error it does nothing.
type certFiles struct {
	dir string
	err error
}

// refuse fails if one of the files is there.
func (f *certFiles) refuse(names ...string) {
	for _, name := range names {
		path := filepath.Join(f.dir, name)
		if _, err := os.Lstat(path); f.err == nil && !errors.Is(err, fs.ErrNotExist) {
			f.err = fmt.Errorf("%s is there already and is not overwritten: move it away, or choose another folder with --out", path)
		}
	}
}

// authority reads ca.crt and ca.key, or makes them if they are not there.
func (f *certFiles) authority(make bool) *certificate.Authority {
	if f.err != nil {
		return nil
	}
	cert, err := os.ReadFile(filepath.Join(f.dir, "ca.crt"))
	var key []byte
	if err == nil {
		key, err = os.ReadFile(filepath.Join(f.dir, "ca.key"))
	} else if make && errors.Is(err, fs.ErrNotExist) {
		return f.newAuthority()
	}
	if err != nil {
		f.err = fmt.Errorf("read the authority: %w", err)
		return nil
	}
	a, err := certificate.ParseAuthority(cert, key)
	if err != nil {
		f.err = fmt.Errorf("the authority in %s cannot be used: %w", f.dir, err)
	}
	return a
}

func (f *certFiles) newAuthority() *certificate.Authority {
	if f.refuse("ca.key"); f.err != nil {
		return nil
	}
	if f.err = os.MkdirAll(f.dir, 0o755); f.err != nil {
		return nil
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	a, err := certificate.NewAuthority("Berth, made on " + host)
	if f.err = err; err == nil {
		f.issue("ca", a.PEM)
	}
	return a
}

// issue writes NAME.crt and NAME.key. The key is written first, so that a certificate never lacks its own.
func (f *certFiles) issue(name string, make func() (cert, key []byte, err error)) {
	if f.err != nil {
		return
	}
	cert, key, err := make()
	if err == nil {
		err = writeNew(filepath.Join(f.dir, name+".key"), key, 0o600)
	}
	if err == nil {
		err = writeNew(filepath.Join(f.dir, name+".crt"), cert, 0o644)
	}
	f.err = err
}

// writeNew makes a file that must not exist.
func writeNew(path string, content []byte, mode os.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}

// tellTrust prints what to do with the certificates.
func tellTrust(w io.Writer, dir string, hosts []string, port int) error {
	type place struct{ Host, URL string }
	var data struct {
		CA, Certificate, Key, Name string
		Port                       int
		Places                     []place
	}
	in := func(name string) string { return shell(filepath.Join(dir, name)) }
	data.CA, data.Certificate, data.Key, data.Port = in("ca.crt"), in("server.crt"), in("server.key"), port
	data.Name = strings.NewReplacer("*.", "", ":", "-").Replace(hosts[0])
	for _, h := range hosts {
		if strings.HasPrefix(h, "*.") {
			continue // the clients' folders have the names of single hosts
		}
		address := net.JoinHostPort(h, strconv.Itoa(port))
		if port == 443 {
			address = strings.TrimSuffix(address, ":443")
		}
		data.Places = append(data.Places, place{address, "https://" + address})
	}
	return template.Must(template.New("").Parse(trustText)).Execute(w, data)
}

// shell quotes a word for a shell if need be.
func shell(word string) string {
	if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./_-:") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

const trustText = `# Serve with it (beyond this machine, it takes access control, too):
berth serve --listen 127.0.0.1:{{.Port}} --tls-certificate {{.Certificate}} --tls-key {{.Key}}

# On each client, one of these, with a copy of ca.crt.
{{range .Places}}
# Docker, for {{.Host}} (no restart is needed):
sudo install -D -m 644 {{$.CA}} '/etc/docker/certs.d/{{.Host}}/ca.crt'

# Podman, Buildah, Skopeo, CRI-O, for {{.Host}}:
sudo install -D -m 644 {{$.CA}} '/etc/containers/certs.d/{{.Host}}/ca.crt'

# containerd, for {{.Host}}, where its config_path is /etc/containerd/certs.d:
sudo install -D -m 644 {{$.CA}} '/etc/containerd/certs.d/{{.Host}}/ca.crt'
printf 'server = "{{.URL}}"\n[host."{{.URL}}"]\n  ca = "/etc/containerd/certs.d/{{.Host}}/ca.crt"\n' | sudo tee '/etc/containerd/certs.d/{{.Host}}/hosts.toml'
{{end}}
# Everything on the machine, on Debian, Ubuntu, Alpine:
sudo install -D -m 644 {{.CA}} '/usr/local/share/ca-certificates/berth-{{.Name}}.crt' && sudo update-ca-certificates

# Everything on the machine, on Fedora, RHEL:
sudo install -D -m 644 {{.CA}} '/etc/pki/ca-trust/source/anchors/berth-{{.Name}}.crt' && sudo update-ca-trust
`
