// Package mutual lets nodes know each other: TLS 1.3 in which both ends show a certificate of the cluster's own authority. A certificate
// names one node, as its only DNS name, and its role, as its only organizational unit; whom a listener or a client accepts is said by these two
// and never by a host name, so that nodes may move.
//
// It promises: nobody is accepted without a certificate that holds now, below an authority that is believed now; files that are replaced count from
// the next connection on, without a restart, and files that are wrong leave the last right ones in use. There is no list of revoked
// certificates: they are short, and a new authority ends all at once.
//
// Start at Load and Identity.Config. MakeAuthority and MakeNode make the files for an installation that has no authority of its own.
package mutual
