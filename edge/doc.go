// Package edge is one edge node: a replica of the writers' records, and the signed answer to an app that asks what it may use.
//
// An edge decides nothing and writes no truth. What it answers is computed from records that a writer has signed, at a time that a writer
// has proven, and signed with a key that a writer has certified for at most 72 hours. Cut off from all writers it goes on answering,
// with an as_of that stands still, and signs until as_of + 24 h. Start at Open; the way of a request is check.go.
package edge
