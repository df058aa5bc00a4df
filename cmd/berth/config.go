package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/server"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show or check the server's configuration",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newConfigPrintCommand(), newConfigCheckCommand())
	return cmd
}

func newConfigPrintCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print all settings as YAML, with their descriptions and where their values come from",
		Long: `Print the configuration that "berth serve" would use with the same flags and environment.
Each setting stands below its description and beside the place that its value comes from. The
output can be used as a configuration file; secrets are not shown.`,
		Args: cobra.NoArgs,
	}
	places := addConfigFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := server.Load(places())
		if err != nil {
			return tellProblems(cmd, err)
		}
		return cfg.Print(cmd.OutOrStdout())
	}
	return cmd
}

func newConfigCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with the configuration, all of it, with file and line",
		Args:  cobra.NoArgs,
	}
	places := addConfigFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := server.Load(places()); err != nil {
			return tellProblems(cmd, err)
		}
		fmt.Fprintln(cmd.OutOrStdout(), "the configuration is valid")
		return nil
	}
	return cmd
}
