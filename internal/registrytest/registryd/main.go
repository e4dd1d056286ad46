// Command registryd runs a real Schema Registry without containers, for tests and
// for trying Avro. It needs a Java runtime of version 17 or newer, and Maven the
// first time.
//
//	go run ./internal/registrytest/registryd [-fetch] [-port N] [-kafka ADDRS] [-dir DIR]
//
//	-fetch         only download what it runs into .cache
//	-port N        port on 127.0.0.1 (8081)
//	-kafka ADDRS   bootstrap servers of a Kafka that keeps its schemas (a file in DIR)
//	-dir DIR       folder for its log and its schemas (data/registry)
//
// Ctrl-C or SIGTERM stops it and exits 0; exit 1 is a fault, 2 a wrong flag.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/taskwire/taskwire/internal/registrytest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "registryd: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("registryd", flag.ExitOnError)
	fetch := flags.Bool("fetch", false, "only download")
	port := flags.Int("port", 8081, "port on 127.0.0.1")
	kafka := flags.String("kafka", "", "bootstrap servers")
	dir := flags.String("dir", "data/registry", "folder for the log and the schemas")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *fetch {
		home, err := registrytest.Fetch(ctx, stdout)
		python, pythonErr := registrytest.Python(ctx, stdout)
		if err := errors.Join(err, pythonErr); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "Apicurio Registry %s is in %s, its Python client in %s\n", registrytest.Version, home, python)
		return nil
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	opts := registrytest.Options{Dir: *dir, Port: *port, Progress: stdout}
	if *kafka != "" {
		opts.Brokers = strings.Split(*kafka, ",")
	}
	r, err := registrytest.OpenReal(ctx, opts)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Apicurio Registry %s answers at SCHEMA_REGISTRY_URL=%s; Ctrl-C stops it\n", registrytest.Version, r.URL)
	<-ctx.Done()
	return r.Stop()
}
