package ledger

import (
	"syscall"
	"unsafe"
)

// newTable returns n zeroed cells outside the Go heap. The collector lets the
// heap grow to twice what is in use before it runs, and most of what is in use
// here are these tables, which hold no pointers and never shrink: in the heap
// each entry would cost its bytes twice. n is a multiple of a page's cells, so
// nothing is lost to rounding.
func newTable[T uint64 | int32](n int) []T {
	var cell T
	size := n * int(unsafe.Sizeof(cell))
	mem, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]T, n) // in the heap after all: more memory is better than no auditor
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[0])), n)
}

// freeTable frees the cells; t must not be used again.
func freeTable[T uint64 | int32](t []T) {
	if len(t) == 0 {
		return
	}
	mem := unsafe.Slice((*byte)(unsafe.Pointer(&t[0])), len(t)*int(unsafe.Sizeof(t[0])))
	_ = syscall.Munmap(mem) // fails for a table from make, which the collector frees
}

// pageCells is a multiple of every table's cells in a page of 4 KiB.
const pageCells = 1024

// grown is the next size of a table: a quarter more.
func grown(cells int) int {
	return (cells + max(cells/4, 1) + pageCells - 1) / pageCells * pageCells
}
