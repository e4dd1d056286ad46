//go:build !linux

package ledger

import "os"

// uncache has no portable form; elsewhere the page cache is trusted.
func uncache(*os.File, int64) {}
