// Package storesim simulates the seven payment providers under one virtual clock: customers buy, cards fail, subscriptions renew and end, and every
// provider tells of it in its own dialect, with its own signatures, and answers when it is asked. It is for tests, ours and those of Latchkey's
// users, and it is written from what the providers publish, not from Latchkey's adapters: it imports nothing of the writers.
//
// The ledger is the one truth: plain purchases, terms and facts (ledger.go). Actions and the passing of time write it (life.go, renewals.go), each
// provider's file renders it as messages and as answers (stripe.go, apple.go, ...), deliver.go posts the messages, with the delays, losses and
// repeats of [Chaos]. [Oracle] says from the facts alone who must be entitled to what; it knows nothing of messages, and nothing of Latchkey's fold.
//
// The same [Config].Seed and the same calls give the same ledger, the same ids and the same messages at the same virtual times. Signatures are
// random where their algorithm is.
//
// Start at [New], [Sim.Buy] and [Sim.Advance].
package storesim
