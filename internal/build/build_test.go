package build

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestLine(t *testing.T) {
	setting := func(key, value string) debug.BuildSetting { return debug.BuildSetting{Key: key, Value: value} }
	platform := ", " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
	for name, c := range map[string]struct {
		version  string
		settings []debug.BuildSetting
		want     string
	}{
		"release":          {"v1.2.0", []debug.BuildSetting{setting("vcs.revision", "4a5b"), setting("vcs.modified", "false")}, "bridge v1.2.0, revision 4a5b"},
		"changed checkout": {"v1.2.1-0.20250115103000-4a5b+dirty", []debug.BuildSetting{setting("vcs.revision", "4a5b"), setting("vcs.modified", "true")}, "bridge v1.2.1-0.20250115103000-4a5b+dirty, revision 4a5b-dirty"},
		"go run":           {"(devel)", nil, "bridge (devel), revision unknown"},
		"no build info":    {"", nil, "bridge unknown, revision unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			got := describe(&debug.BuildInfo{Main: debug.Module{Version: c.version}, Settings: c.settings}).Line("bridge")
			if got != c.want+platform {
				t.Errorf("Line = %q, want %q", got, c.want+platform)
			}
		})
	}
}
