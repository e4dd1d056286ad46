// Package failpoint lets a test build end its own process exactly between two
// steps. It needs the build tag failpoint: without the tag every function here is
// empty and inlined, and internal/policy proves that the programs contain neither
// its symbols nor the name of its variable.
//
// With the tag, TASKWIRE_FAILPOINT is a list of what happens where:
//
//	R3:kill@7           the process kills itself the seventh time that it reaches R3
//	U3:power@2          like kill, after dropping what was never synced (see Power)
//	B3:stop             it stops itself until SIGCONT
//	U3:error,U1:power   the first fsync fails; the next post loses power
//
// Before it dies the process writes the line "failpoint R3: kill at hit 7" to its
// standard error and syncs it, so that a sweep knows what was hit.
//
// # Points
//
//	A1 before the transaction      A2 between task and outbox row   A3 before COMMIT
//	A4 COMMIT done, not yet seen   A5 before the answer             A6 half an answer
//	R1 batch read                  R2 produce sent, no answer       R3 acknowledged, not marked
//	R4 half of the batch marked    R5 marked
//	B1 fetched                     B2 half a request sent           B3 2xx read, not committed
//	B4 commit sent, no answer      B5 committed                     B6 dead letter written, not committed
//	B7 partitions revoked          B8 drained, last commit not sent
//	D1 dead letter redriven, not marked as done
//	D2 dead letter failed again, new one written, old one not marked as done
//	U1 body read                   U2 half a line written           U3 written, not synced
//	U4 synced, not in the index    U5 before the answer             U6 half an answer
//	P1 head locked                 P2 rows sent, no COMMIT          P3 COMMIT sent, no answer
//	P4 COMMIT answered, entries not
//	T1 before a tile is written    T2 tile written, not synced      T3 before the checkpoint
//	T4 checkpoint written, not handed on
//	U7 in recovery, before the torn end is cut, and before the cut is synced
//	U8 between the steps by which a full segment of the log is sealed, four times
package failpoint

import (
	"context"
	"net"
)

type dial = func(ctx context.Context, network, address string) (net.Conn, error)
