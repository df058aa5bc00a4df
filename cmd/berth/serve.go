package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

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
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		// From the first signal on, signals do again what they do by default: the
		// second one ends the process. What it leaves behind is what a crash leaves.
		context.AfterFunc(ctx, stop)
		return server.Run(ctx, cfg, server.NewLogger(cfg.Log, os.Stderr))
	}
	return cmd
}

// addConfigFlags adds the flags that say what the configuration is. The function that it
// returns is called after flags are parsed.
func addConfigFlags(flags *pflag.FlagSet) func() server.Places {
	file := flags.String("config", "", "read settings from this YAML `FILE`")
	// Flags are text here and read by the same code as every other place, so that
	// errors and forms are the same.
	for _, f := range []struct{ key, usage string }{
		{"listen", "serve at `ADDRESS`: HOST:PORT, :PORT or unix:PATH (default 127.0.0.1:5000)"},
		{"data", "keep everything in `FOLDER` (default ./berth-data)"},
		{"log.level", "log messages from `LEVEL` on: debug, info, warn or error (default info)"},
		{"log.format", "log as `FORMAT`: text or json (default text)"},
		{"metrics.listen", "serve metrics for Prometheus at `ADDRESS` (default none)"},
	} {
		flags.String(server.FlagName(f.key), "", f.usage)
	}
	flags.Bool(server.FlagName("insecure_open"), false, "allow to listen beyond this machine without access control or TLS")
	keys := []string{"listen", "data", "insecure_open", "log.level", "log.format", "metrics.listen"}

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
