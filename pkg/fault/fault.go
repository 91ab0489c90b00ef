// Package fault lets tests break a program on purpose: it dies at a named instruction, its clock is off, or it carries one of
// the known faults that the checkers must find. All of it is there only in a build with the tag "faults"; in every other build
// each function is empty or a constant, and the compiler leaves nothing of it. Start at Point, Planted and Clock.
//
// The environment of the process decides:
//
//	LATCHKEY_FAULT_CRASH=name     the process kills itself the first time it comes to Point(name); name:3 is the third time
//	LATCHKEY_FAULT_PLANT=a,b      Planted("a") and Planted("b") are true
//	LATCHKEY_FAULT_CLOCK=file     Clock is off by the duration in file ("-10m"), which may change while the process runs
package fault
