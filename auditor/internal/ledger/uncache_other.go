//go:build !linux

package ledger

import "os"

// uncache has no portable form: other systems read from the page cache.
func uncache(*os.File, int64) {}
