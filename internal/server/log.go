package server

import (
	"io"
	"log/slog"
)

// NewLogger returns the logger that c asks for. It makes one Write call for each line.
func NewLogger(c Log, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level.Level()}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
