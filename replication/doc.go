// Package replication carries the writers' records to the edges: what a change is, how a history proves itself, how an
// edge follows it. It hides the transports (HTTP pull, NATS) from both sides.
//
// A [Record] is bytes under (environment, kind, key). A [Change] is one record's whole new bytes at one dense revision;
// changes are linked by a hash chain, and the sum of all records' hashes is the state hash. A writer signs [Position]
// values (revision, chain, state hash); an edge applies changes only when they lead exactly to a signed position.
// DESIGN.md argues why that is enough.
//
// Start at [Change]. An edge runs a [Follower], which puts what it has verified into a [Replica]; a leader runs [Publish], and every
// writer answers what a [Client] asks. [NATS] is a [Source]: faster than the pull, never needed, never believed.
package replication
