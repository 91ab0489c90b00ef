// Package history judges what clients did and saw while a system was disturbed. It knows nothing of how the system works: only
// which requests were sent when, what was answered when, and what of that can be true at all.
//
// Two judges, each with its recorder:
//
//   - Recorder keeps alias links, grants, revocations and reads of the server API. Its Check asks whether some order of them, each
//     at one instant between its request and its answer, explains every answer (I10). An outcome that nobody knows may have come
//     at any later instant, or never.
//   - Sessions keeps what was acknowledged and what edges answered. Its Check finds answers that are older than was asked for
//     (I11), that go back (I7), that claim to be newer than they are (I8), or that hold something else than what was written by
//     their revision (I6).
//
// Clients drives a running system at random and feeds both.
package history
