package main

import (
	"regexp"
	"strconv"
)

// plantedFault is a mistake that somebody could make, and who finds it.
type plantedFault struct {
	name string // of fault.Planted
	what string // the mistake
	by   []checker
}

// test is a checker that is one test.
func test(name, of, test, says string, args ...string) checker {
	return checker{name: name, of: of, test: test, says: regexp.MustCompile(says), args: args}
}

// histories is the run of clients at real processes under kills, freezes and hand-overs.
func histories(name, says string) checker {
	return test(name, "deploy/e2e", "TestHistories", says)
}

// simulator is a number of random histories under virtual time. Where few of them meet the fault, many are played.
func simulator(invariant string, seeds int) checker {
	return checker{name: "the simulator (" + invariant + ")", of: "deploy/sim", args: []string{"-seeds", strconv.Itoa(seeds)}, says: regexp.MustCompile("failed: " + invariant + ":")}
}

// chaos is a run of real processes with one kind of trouble.
func chaos(invariant, trouble string) checker {
	return checker{name: "chaos: " + trouble + " (" + invariant + ")", of: "deploy/e2e/chaos/run", args: []string{"--only", trouble, "--for", "10s", "--seed", "2"},
		says: regexp.MustCompile("WRONG " + invariant + ":"), processes: true}
}

const store = "writer/internal/store"

// Failing examples of random tests are not made small for long, and not kept.
var random = []string{"-rapid.nofailfile", "-rapid.shrinktime=1s"}

// faults are all that can be planted.
var faults = []plantedFault{
	{"unsynced-log", "log entries are acknowledged and written a moment later", []checker{
		test("kill -9 of a writer that has acknowledged (I1)", store, "TestASIGKILLLosesNothingAcknowledged", "acknowledged event .*: 0 found"),
		chaos("I1", "kill all writers"),
	}},
	{"drop-change", "one change in five is missing in the change log", []checker{
		test("the walk along the change log (I5)", store, "TestOldIdempotencyRowsGo", "the change log ends elsewhere"),
		simulator("I5", 30),
	}},
	{"publish-drops-a-change", "the publisher leaves a change out of what it sends over NATS", []checker{
		simulator("propagation", 30),
	}},
	{"replica-drops-a-change", "an edge that has verified a batch does not write all of it", []checker{
		simulator("I13", 30),
	}},
	{"heartbeat-fast-path", "Raft handles heartbeats beside its main loop (hashicorp/raft#695)", []checker{
		test("a heartbeat of a newer term before a proposal (I4)", store, "TestHeartbeatsTakeNoFastPath", "stamped with a term that nobody won"),
	}},
	{"diverged-writer", "one writer's state is another than the log says", []checker{
		test("the writers' comparison of their states (I3)", "writer", "TestWritersThatAgreeGoOn", "(another|different) states? .*at the same index of the log"),
		simulator("I3", 30),
	}},
	{"duplicate-effect", "an event that is known already is applied again", []checker{
		test("nine deliveries of one event (I2)", store, "TestNineDeliveriesAtOnceHaveOneEffect", "answers without duplicate, want 1"),
	}},
	{"sandbox-counts", "a sandbox message sent to production has its effect there", []checker{
		test("messages of another environment (I15)", store, "TestEvents", "want outcome wrong_environment"),
	}},
	{"log-unchecked", "entries of Raft's log are read without their checksum", []checker{
		test("a byte of Raft's log that changed on the disk (I4)", store, "TestAChangedByteInRaftsLogIsNoEntry", "want ErrCorrupt"),
	}},
	{"epoch-repeats", "a restore does not raise the epoch", []checker{
		test("the epoch after a restore (I7)", store, "TestRaisingTheEpochDropsTheChangeLogAndKeepsTheRevision", "epoch 1, want the old one"),
		simulator("I5", 100),
	}},
	{"fold-by-arrival", "of two states of one provider object the later delivered one counts", []checker{
		test("messages in any order (I20)", store, "TestAnyOrderGivesOneStateHash", "state hash .*, in the straight order", random...),
		simulator("I20", 100),
	}},
	{"head-unverified", "a writer signs heads of its own state, whether it leads or not", []checker{
		test("heads of a writer that is cut off (I8)", "writer", "TestACutOffWriterProvesNothingOfItself", "had been acknowledged at"),
	}},
	{"head-without-quorum", "a leader signs heads without asking whether it still leads", []checker{
		simulator("I8", 400),
	}},
	{"stale-read", "a writer reads its own state without asking how far the log is committed", []checker{
		histories("linearizability by porcupine (I10)", "the server API: not linearizable"),
	}},
	{"edge-skips-signature", "an edge believes statements whatever their signature", []checker{
		test("a stranger who continues the history (I12)", "replication", "TestAStrangerCannotContinueTheHistory", "which a stranger signed"),
		simulator("I8", 100),
	}},
	{"edge-skips-hash", "an edge applies changes whatever chain and state hash they lead to", []checker{
		test("batches that were altered (I6)", "edge/internal/replica", "TestNothingUnprovenIsApplied", "want copy diverged from the signed position"),
		simulator("I13", 400),
	}},
	{"edge-goes-back", "an edge adopts a snapshot that is older than what it has served", []checker{
		test("older copies (I7)", "edge/internal/replica", "TestACopyNeverGoesBack", "want ErrBehind"),
		simulator("I7", 400),
	}},
	{"silence-unnoticed", "an edge waits for NATS, however long it is silent", []checker{
		simulator("I19", 30),
		chaos("I12", "cut edges from NATS"),
	}},
	{"snapshots-without-end", "an edge takes a snapshot again although the last one has helped", []checker{
		simulator("I19", 30),
	}},
	{"record-unchecked", "records are read without their checksum", []checker{
		test("flipped bits in a replica file (I13)", "edge/internal/replica", "TestAFlippedBitNeverAnswers", "or damage"),
	}},
	{"min-revision-ignored", "an edge answers at once, whatever min_revision says", []checker{
		histories("sessions that hop across edges (I11)", "an edge: I11"),
	}},
	{"as-of-from-clock", "an edge's as_of is its own clock's time", []checker{
		test("an edge that is cut off (I8)", "edge", "TestCutOff", "the last fresh second"),
	}},
	{"long-grace", "tokens live for 48 h", []checker{
		test("the life of any token (I9)", "pkg/token", "TestNoTokenOutlivesWhatTheEdgeCanProve", "more than 24 h after as_of", random...),
	}},
}
