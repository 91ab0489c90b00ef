// Package entitlement decides what an account may use, from what payment providers say about its purchases.
//
// It is pure: no I/O, clock, randomness or map order reaches a result, because every writer must get the same answer
// from the same log and every edge the same answer from the same record. Whoever calls it brings the time.
//
// The way of the data: an adapter turns a provider's message into an [Event], whose [Object] values are the newest
// states that the message proves. [Merge] puts them into the [Evidence] of one purchase, in any order and any number of
// times with the same result. [Fold] turns the evidence into the [Purchase] that an [Account] record holds. [Account.View]
// turns the record, the [Catalog] and a time into the entitlements that an app is told. Start at Fold.
package entitlement
