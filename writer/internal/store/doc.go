// Package store keeps the truth: it takes commands, agrees on their order by Raft, and folds them into records, a change
// log and a journal. It alone knows Raft. A write that returned is on the disks of a majority; a read through
// ReadIndex sees every write that returned before it. DESIGN.md says what each crash leaves. Start at Open and Propose.
package store
