package embedkafka_test

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/embedkafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMissingTopicsAreCreatedAndKept(t *testing.T) {
	cfg := embedkafka.Config{DataDir: t.TempDir(), Topics: map[string]int{"a": 2}}
	for _, topics := range []map[string]int{{"a": 2}, {"a": 7, "b": 3}} {
		cfg.Topics = topics
		b, err := embedkafka.Start(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(b.Cluster().PartitionInfos("a")); got != 2 {
			t.Errorf("a has %d partitions, want the 2 it was created with", got)
		}
		if got := len(b.Cluster().PartitionInfos("b")); got != topics["b"] {
			t.Errorf("b has %d partitions, want %d", got, topics["b"])
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("the second Close = %v", err)
		}
	}
}

func TestWhatIsInUseIsNamedInOneLine(t *testing.T) {
	dir := t.TempDir()
	b, err := embedkafka.Start(embedkafka.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for name, c := range map[string]struct {
		cfg  embedkafka.Config
		want string
	}{
		"data":    {embedkafka.Config{DataDir: dir}, dir + " is in use by another process"},
		"address": {embedkafka.Config{DataDir: t.TempDir(), Addr: b.Addr()}, b.Addr() + " of the embedded broker is taken by another program"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := embedkafka.Start(c.cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Start = %v, want one line with %q", err, c.want)
			}
		})
	}
}

func TestDataFolderIsFreeAfterAFailedStart(t *testing.T) {
	b, err := embedkafka.Start(embedkafka.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := embedkafka.Start(embedkafka.Config{DataDir: dir, Addr: b.Addr()}); err == nil {
		t.Fatal("two brokers on one address")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := embedkafka.Start(embedkafka.Config{DataDir: dir, Addr: b.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
