package app_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
)

func TestBatchesOfAFile(t *testing.T) {
	for text, want := range map[string]app.Batch{
		"mode: batch":                                    {Size: 100, Bytes: 512 << 10},
		"mode: batch, batch: {size: 7}":                  {Size: 7, Bytes: 512 << 10},
		"mode: batch, order: none, batch: {bytes: 1MiB}": {Size: 100, Bytes: 1 << 20},
		"mode: batch, batch: {size: 500, bytes: 4097}":   {Size: 500, Bytes: 4097},
		"mode: batch, batch: {size: 1, bytes: '2 KiB'}":  {Size: 1, Bytes: 2 << 10},
		"mode: auto, order: partition, batch: {size: 9}": {Size: 9, Bytes: 512 << 10},
		"mode: binary, order: partition":                 {Size: 100, Bytes: 512 << 10},
	} {
		path := write(t, "subscriptions: [{name: a, group: a, sink: 'http://x/', "+text+"}]")
		for range 2 { // what check prints is read back as the same
			cfg, err := app.FromEnv(env.Map(map[string]string{"BRIDGE_CONFIG": path}))
			if err != nil {
				t.Errorf("%s: %v", text, err)
				break
			}
			if diff := cmp.Diff(want, cfg.Subscriptions[0].Batch); diff != "" {
				t.Errorf("%s (-want +got):\n%s", text, diff)
			}
			out, _, err := run(t.Context(), t, map[string]string{"BRIDGE_CONFIG": path}, "check")
			if err != nil {
				t.Fatal(err)
			}
			path = write(t, out)
		}
	}
}

func TestMistakesInBatchesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"mode: many":                        "mode: want structured, binary, batch or auto",
		"mode: batch, batch: {size: 501}":   "batch.size: want 1 to 500",
		"mode: batch, batch: {size: -1}":    "batch.size: want 1 to 500",
		"mode: batch, batch: {bytes: 9MiB}": "batch.bytes: want 1KiB to 8MiB",
		"mode: batch, batch: {bytes: 1023}": "batch.bytes: want 1KiB to 8MiB",
		"mode: batch, batch: {bytes: lots}": "batch.bytes: want a size such as 512KiB",
		"mode: batch, batch: {linger: 1s}":  "batch.linger: unknown key",
		"mode: batch, order: partition":     "order: partition lets one event",
		"batch: {bytes: 0.5MiB}":            "batch.bytes: want a size such as 512KiB",
	} {
		path := write(t, "subscriptions: [{name: a, group: a, sink: 'http://x/', "+text+"}]")
		if _, err := app.FromEnv(env.Map(map[string]string{"BRIDGE_CONFIG": path})); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}
