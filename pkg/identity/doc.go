// Package identity knows the identity providers that sign an app's users in elsewhere (Apple, Firebase, Auth0, one's own), and says who
// stands behind a token of theirs. Edges and writers use the same: an edge to answer, a writer to make the account of somebody new.
//
// Nothing that a token says makes this package ask an address that the configuration does not name, and nothing makes it ask often: key sets are
// fetched by one at a time, at most twice a minute, however many unknown keys are named. Start at Providers.
package identity
