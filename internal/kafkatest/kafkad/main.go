// Command kafkad runs a real Apache Kafka without containers, for tests and
// for trying the services against it. It needs a Java runtime of version 17 or
// newer, and Maven the first time.
//
//	go run ./internal/kafkatest/kafkad [-fetch] [-port N] [-dir DIR]
//
//	-fetch     only download the jars into .cache/kafka
//	-port N    port on 127.0.0.1 (9092); the controller takes N+1
//	-dir DIR   folder for data, which survive a restart (data/kafka-real)
//
// Ctrl-C or SIGTERM stops it and exits 0; exit 1 is a fault, 2 a wrong flag.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/taskwire/taskwire/internal/kafkatest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kafkad: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("kafkad", flag.ExitOnError)
	fetch := flags.Bool("fetch", false, "only download the jars")
	port := flags.Int("port", 9092, "port on 127.0.0.1")
	dir := flags.String("dir", "data/kafka-real", "folder for data")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *fetch {
		libs, err := kafkatest.Fetch(ctx, stdout)
		if err == nil {
			fmt.Fprintf(stdout, "Apache Kafka %s is in %s\n", kafkatest.Version, libs)
		}
		return err
	}
	broker, err := kafkatest.OpenReal(ctx, kafkatest.Options{Dir: *dir, Port: *port, Progress: stdout})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Apache Kafka %s listens on %s; Ctrl-C stops it\n", kafkatest.Version, broker.Brokers[0])
	<-ctx.Done()
	return broker.Stop()
}
