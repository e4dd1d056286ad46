package manifests_test

import (
	"regexp"
	"slices"
)

// tried reports whether the bridge's console has its page Try it.
func (w *world) tried() bool {
	return slices.ContainsFunc(w.ours(), func(l workload) bool { return l.value("TASKAPI_URL") != "" })
}

// unknownToConsole: the page Audit has the auditor's address. The page Try it has the
// Task API's in no overlay, and only where somebody can sign in.
func unknownToConsole(w *world) (f findings) {
	for _, l := range w.ours() {
		if l.program != "bridge" {
			continue
		}
		addresses := map[string]string{"AUDITOR_URL": "auditor"}
		if w.tried() {
			addresses["TASKAPI_URL"] = "taskapi"
			f.addIf(l.value("ADMIN_TOKEN_FILE") == "", "%s has the page Try it, and nobody can sign in", l)
		}
		for variable, name := range addresses {
			address := l.value(variable)
			f.addIf(!regexp.MustCompile("^http://"+name+`[:.][^@]*/$`).MatchString(address), "%s: %s is %q, want the address of %s", l, variable, address, name)
			f = append(f, w.unserved(address)...)
		}
	}
	return f
}
