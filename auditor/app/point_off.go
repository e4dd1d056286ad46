//go:build !failpoint

package app

import (
	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/tree"
)

// pointed adds no layer over the log's file: fail points are in test builds only.
var pointed func(ledger.File) ledger.File

// pointedTree adds nothing to the store of the tree.
func pointedTree(s tree.Store) tree.Store { return s }
