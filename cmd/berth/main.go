// Command berth is a container registry in one binary, and a command line for
// this and any other registry.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130 // as shells report a program that SIGINT ended
)

func main() { os.Exit(run(arguments(os.Args[0], os.Args[1:]))) }

func run(args []string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		// A second signal, however soon, ends the process as if nobody had asked for signals.
		second := <-signals
		signal.Reset()
		if s, ok := second.(syscall.Signal); ok {
			_ = syscall.Kill(os.Getpid(), s)
		}
	}()

	root := newRootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "berth: %v (see %s --help)\n", err, usage.command)
		return exitUsage
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))):
		fmt.Fprintln(os.Stderr, "berth: interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(os.Stderr, "berth: %v\n", explain(err))
	return exitFailure
}
