package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berthregistry/berth/internal/server"
)

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the registry",
		Long: `Run the registry until SIGTERM or SIGINT, then let the requests that are being
answered end. A second signal ends the process at once.

Everything that can be set is shown by "berth config print".`,
		Example: `  berth serve
  berth serve --listen 127.0.0.1:8080 --data /var/lib/berth
  BERTH_LOG_FORMAT=json berth serve --config /etc/berth.yaml`,
		Args: cobra.NoArgs,
	}
	places := addConfigFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := server.Load(places())
		if err != nil {
			return tellProblems(cmd, err)
		}
		// The context ends with the first signal. The second one ends the process, which
		// leaves what a crash leaves.
		lines := server.NewLogWriter(cmd.ErrOrStderr())
		defer lines.Close()
		log := server.NewLogger(cfg.Log, lines)
		if os.Getenv("GOGC") == "" {
			// What lives is mostly caches, and requests leave little behind: memory saved this way costs next to no time.
			debug.SetGCPercent(50)
		}
		return tellProblems(cmd, server.Run(cmd.Context(), cfg, log))
	}
	return cmd
}

// tellProblems makes a usageError of a configuration that is wrong. Several problems
// are printed one a line, as compilers do.
func tellProblems(cmd *cobra.Command, err error) error {
	var wrong *server.ConfigError
	if !errors.As(err, &wrong) {
		return err
	}
	if len(wrong.Problems) == 1 {
		return &usageError{cmd.CommandPath(), err}
	}
	for _, p := range wrong.Problems {
		fmt.Fprintln(cmd.ErrOrStderr(), p)
	}
	return usagef(cmd, "%d settings are wrong", len(wrong.Problems))
}

// addConfigFlags adds the flags that say what the configuration is. The function that it
// returns is called after flags are parsed.
func addConfigFlags(flags *pflag.FlagSet) func() server.Places {
	file := flags.String("config", "", "read settings from this YAML `FILE`")
	// Flags are text here and read by the same code as every other place, so that
	// errors and forms are the same.
	keys := []string{
		"listen", "data", "insecure_open", "log.level", "log.format", "metrics.listen",
		"tls.certificate", "tls.key", "tls.client_ca", "tls.client_certificate",
		"database", "storage.s3.bucket", "storage.s3.endpoint", "storage.s3.region",
	}
	flags.String("listen", "", "serve at `ADDRESS`: HOST:PORT, :PORT or unix:PATH (default 127.0.0.1:5000)")
	flags.String("data", "", "keep everything in `FOLDER` (default ./berth-data)")
	flags.Bool("insecure-open", false, "allow to listen beyond this machine without access control")
	flags.String("tls-certificate", "", "serve with TLS and the certificate and chain in `FILE` (PEM)")
	flags.String("tls-key", "", "the key of that certificate, in `FILE` (PEM)")
	flags.String("tls-client-ca", "", "verify clients' certificates with those in `FILE` (PEM)")
	flags.String("tls-client-certificate", "", "whether clients need a certificate: optional or required (default optional)")
	flags.String("database", "", "keep metadata in the PostgreSQL database of this `URL`, or file:PATH, instead of the data folder")
	flags.String("storage-s3-bucket", "", "keep blobs in this `BUCKET` instead of the data folder")
	flags.String("storage-s3-endpoint", "", "reach the bucket at this `URL` (default that of AWS)")
	flags.String("storage-s3-region", "", "the `REGION` of the bucket")
	flags.String("log-level", "", "log messages from `LEVEL` on: debug, info, warn or error (default info)")
	flags.String("log-format", "", "log as `FORMAT`: text or json (default text)")
	flags.String("metrics-listen", "", "serve metrics for Prometheus at `ADDRESS` (default none)")

	return func() server.Places {
		places := server.Places{File: *file, Env: os.Environ(), Flags: make(map[string]string)}
		for _, key := range keys {
			if f := flags.Lookup(server.FlagName(key)); f.Changed {
				places.Flags[key] = f.Value.String()
			}
		}
		return places
	}
}
