//go:build !failpoint

package app

import "github.com/taskwire/taskwire/auditor/internal/ledger"

// pointed is nothing over the log's file: the points are in test builds only.
var pointed func(ledger.File) ledger.File
