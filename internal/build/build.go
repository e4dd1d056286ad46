// Package build is what a program knows of its own build: for --version and for
// the metric taskwire_build_info.
package build

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// unknown stands for what the go command did not record: without a version
// control checkout, with -buildvcs=false, and under `go run` and `go test`.
const unknown = "unknown"

// Info describes a build. No member is empty.
type Info struct {
	Version  string // of the module; (devel) when it has no tag
	Revision string // the commit, with "-dirty" when files differed from it
	Go       string // the Go release
}

// Read returns the description of the running program.
func Read() Info {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	return describe(info)
}

func describe(info *debug.BuildInfo) Info {
	out := Info{Version: info.Main.Version, Revision: unknown, Go: runtime.Version()}
	if out.Version == "" {
		out.Version = unknown
	}
	dirty := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			out.Revision = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty {
		out.Revision += "-dirty"
	}
	return out
}

// Line is what `program --version` prints, without a line feed.
func (i Info) Line(program string) string {
	return fmt.Sprintf("%s %s, revision %s, %s %s/%s", program, i.Version, i.Revision, i.Go, runtime.GOOS, runtime.GOARCH)
}
