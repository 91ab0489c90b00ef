// Package chaos runs a whole Latchkey, breaks it in every way that it can think of while messages come in, and judges what was
// answered meanwhile. It decides nothing of the product: it starts the programs (built with the tag "faults"), puts a relay of its own
// between all of them, injects faults in an order that a seed decides, keeps what was acknowledged and answered in a History, and
// hands that to the checkers. Start at Run; the faults are in faults.go, the checkers in check.go.
//
// # What is judged
//
//	I1   every acknowledged event and grant is there, at every writer, at the end
//	I2   a message that was sent again has the first answer's revision, and is in its account's history once
//	I3   writers at one applied index hold the same state and full hash
//	I4   one leader in a term; the writers' journals are the same bytes
//	I5   revisions are dense and the chain links, in every writer's change log, and the logs are one
//	I6   an edge at a revision has the state hash and the chain that the change log gives for it
//	I7   an edge never goes back
//	I8   what was acknowledged before as_of - 2 s is visible; as_of is never in the future
//	I12  with NATS cut, stopped or forged a change shows within 2 s of what the pull allows
//	I13  a paid account is never denied, a refunded one never served, by an answer whose revision covers it
//	I19  after the faults: a leader within 10 s, edges fresh within 5 s, no snapshot that is restored again and again
//
// # Crash points
//
// A build with the tag "faults" can kill itself at named instructions (pkg/fault): writerPoints and edgePoints list them, and say what
// is done and what is not at each.
//
// # Repeating a run
//
// The order of the faults, their lengths and their lots follow from the seed alone. Which node is the leader when its turn comes,
// and what is under way at that instant, does not: the same seed gives the same plan, not the same run.
package chaos
