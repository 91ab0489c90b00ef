// Package replica keeps an edge's copy of all records at one revision, on disk, and proves at each step that it is the
// writers' state.
//
// A batch is applied only if it leads exactly to the position that a writer signed: dense revisions, chain and state
// hash are computed before anything is written, and records, position and as_of commit in one bbolt transaction (I6). Reading
// trusts nothing on the disk: see [Replica.Lookup]. DESIGN.md says which damage is found where. Start at Open.
package replica
