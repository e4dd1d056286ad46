package app

import (
	"reflect"

	"github.com/goccy/go-yaml/ast"

	"github.com/taskwire/taskwire/bridge/internal/filter"
)

// filter reports the mistakes of v if it is a filter, where they stand in the
// file. Those of the filters in it are reported already.
func (r *reader) filter(where string, node ast.Node, v reflect.Value) {
	f, ok := v.Addr().Interface().(*filter.Filter)
	if !ok {
		return
	}
	for _, m := range f.Mistakes() {
		at, member := node, where
		if entries, ok := node.(ast.MapNode); ok && m.Member != "" {
			member += "." + m.Member
			for entry := entries.MapRange(); entry.Next(); {
				if entry.Key().GetToken().Value == m.Member {
					at = entry.Value()
				}
			}
		}
		r.fail(at.GetToken(), member, m.Text)
	}
}
