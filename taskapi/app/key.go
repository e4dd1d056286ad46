package app

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/process"
)

// Key is the subcommand that makes the key of EVENT_SIGNING_KEY_FILE and prints the
// line of EVENT_VERIFY_KEYS_FILE that belongs to it.
var Key = process.Sub{Name: "key", Usage: "[--new] PATH", Run: runKey}

func runKey(_ context.Context, _ env.Lookup, args []string, stdout, _ io.Writer) error {
	isNew := len(args) == 2 && args[0] == "--new"
	if isNew {
		args = args[1:]
	}
	if len(args) != 1 || args[0] == "" || args[0][0] == '-' {
		return process.Usagef("want taskapi key PATH, or taskapi key --new PATH to make a key")
	}
	if isNew {
		if err := makeKey(args[0]); err != nil {
			return err
		}
	}
	content, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	private, err := eventsign.ParsePrivateKey(content)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	_, err = fmt.Fprintln(stdout, event.Source, eventsign.PublicText(private.Public().(ed25519.PublicKey)))
	return err
}

// makeKey never writes over a file: a lost key cannot sign again.
func makeKey(path string) error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	content, err := eventsign.MarshalPrivateKey(private)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}
