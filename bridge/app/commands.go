package app

import (
	"context"
	"io"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// Commands are the subcommands of the bridge.
func Commands() []process.Sub {
	return []process.Sub{
		{Name: "init", Usage: initUsage, Run: initialize},
		{Name: "check", Run: check},
		{Name: "schema", Run: schema},
		{Name: "explain", Usage: "--event FILE [--json]", Run: explain},
		{Name: "dlq", Usage: "list|show|watch|redrive|ignore", Run: dlq},
		{Name: "pause", Usage: "--subscription NAME --reason TEXT", Run: pause},
		{Name: "resume", Usage: "--subscription NAME", Run: resume},
		{Name: "top", Usage: "[--interval 2s] [--once]", Run: top},
		{Name: "offsets", Usage: "accept --subscription NAME", Run: offsets},
		{Name: "skip", Usage: "--subscription NAME --partition N --offset N --reason TEXT", Run: skip},
	}
}

// check reads the configuration and prints it with defaults filled in.
func check(_ context.Context, lookup env.Lookup, args []string, stdout, _ io.Writer) error {
	if len(args) > 0 {
		return process.Usagef("check takes no argument; it reads BRIDGE_CONFIG")
	}
	cfg, err := FromEnv(lookup)
	if err != nil {
		return err
	}
	text, err := cfg.text()
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, text)
	return err
}
