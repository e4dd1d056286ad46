package ledger

import (
	"os"
	"syscall"
)

// uncache drops the log's last bytes from the page cache, so that they are read
// from the device. After a failed fsync the kernel marks the pages clean: until
// they are evicted they can be read, but the device never got them. Best effort:
// the kernel keeps pages that are mapped or locked.
func uncache(f *os.File, from int64) {
	const dontNeed = 4 // POSIX_FADV_DONTNEED
	const pageMask = 4096 - 1
	_, _, _ = syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), uintptr(from&^pageMask), 0, dontNeed, 0, 0)
}
