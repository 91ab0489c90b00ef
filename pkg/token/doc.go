// Package token signs and verifies everything in Latchkey that carries a signature: grace tokens (24 hours offline), session tokens, the
// certificates above the keys, and the positions that writers sign. It is the only package that knows JWT and JWS (RFC 7515, 7517,
// 7519, 7638); everything here is ES256 over P-256 and nothing else is ever accepted.
//
// # Where to start
//
//   - An app's backend, or an SDK's author: [Verify], then [GraceClaims.Allows]. testdata/vectors.json holds tokens with the answer that
//     every implementation must give; judge/ gives it with npm jose.
//   - An edge: [GraceSigner], [SessionVerifier], [PositionVerifier].
//   - A writer: [IssueCertificate], [SessionSigner], [PositionSigner].
//
// # What it promises
//
//   - A token never lives longer than 24 hours after the as_of that its edge could prove, nor longer than the certificates above it.
//     [GraceSigner] computes both; a caller cannot ask for more.
//   - Who has seen that a key is revoked never believes it again: lists are signed, ordered, and come with every answer ([Revocations]).
//   - What [Verify] accepts, another JOSE library accepts by the procedure below, and the other way round. No two verifiers read
//     one token differently: duplicate members, members in another case, numbers beyond 2^53, and base64 that is not canonical are refused.
//   - Nothing in an error contains a key or a token.
//   - Signatures are deterministic (RFC 6979): the same claims under the same key are the same bytes, and no signature depends on the
//     quality of the machine's randomness after start. They are made here from the arithmetic of crypto/ecdsa, without its garbage, and held equal to
//     crypto/ecdsa's by tests; under GODEBUG=fips140=on that makes them itself.
//
// # The procedure
//
// A token of at most 64 KiB is accepted at the trusted time t, in whole seconds, if all of this holds. Every part is base64url without
// padding, canonical; every JSON text is one UTF-8 object without duplicate members, nested at most 8 levels, whose numbers are integers, written
// without fraction or exponent, of at most 2^53 - 1 either way. A member of another type than its own, null included, is refused.
//
//  1. The token's header has alg ES256, typ latchkey-grace+jwt exactly, no crit, and crt: an array of exactly two strings, leaf and issuer. It may have rvk:
//     an array of at most two strings, each a list of revoked keys, which is taken or not by the rules below before anything else is looked at.
//  2. Each certificate has alg ES256, typ latchkey-cert+jwt, no crit; iss, sub, role (non-empty strings), nbf, exp; and cnf.jwk with
//     exactly the members kty EC, crv P-256, x and y of 32 bytes. nbf <= t < exp.
//  3. The issuer's signature holds under a pinned root; its role is issuer; it has neither aud nor env; exp - nbf <= 400 days.
//  4. The leaf's signature holds under the issuer's cnf.jwk; iss equals the issuer's; exp - nbf <= 72 h; its role is edge and it has aud and env (for
//     positions: its role is writer, and it has neither). Neither key is revoked by the lists that are known now.
//  5. kid is the RFC 7638 thumbprint of the leaf's cnf.jwk, and the token's signature (r and s, 32 bytes each) holds under it.
//  6. The token has iss, aud, sub, env, rev (non-empty strings), iat, exp, as_of, fresh_until and ent; iss, aud and env equal the leaf's; aud,
//     env and sub are the ones expected, and nonce if one was sent.
//  7. t < exp; nbf <= t if there is one; exp <= as_of + 24 h; exp <= the exp of both certificates; fresh_until = as_of + 60.
//  8. ent is an array of objects, each with an id (unique in the token) and a status; bal, if there, is an object of integers.
//
// Then an entitlement is allowed at t if its status is trialing, active or billing_grace, and t < offline_until; absent means never.
//
// # Revoked keys
//
// A list of revoked keys is a JWS of the same strictness, of at most 64 KiB: typ latchkey-revocations+jwt, alg ES256, no crit. Its claims are iss (a non-empty
// string), iat, counter (an integer from 1 on), and revoked: an array of at most 64 unique non-empty strings, the kids. It is genuine in one of two ways:
//
//   - Without crt in its header: its signature holds under a pinned root.
//   - With crt, an array of exactly one certificate: that of an issuing key by steps 2 and 3, judged at the list's own iat instead of t; iss equals the
//     certificate's; the list's signature holds under its cnf.jwk.
//
// A verifier keeps the newest list of each kind, across restarts, and needs no clock for it. It is shown lists by each token's header (accepted or not), and by
// whoever else has one. A list that is not genuine changes nothing and is no reason to refuse anything. A genuine one
//
//   - of a root is taken if its counter is greater than that of the root's list that is kept. If it names the issuing key that signed the other list, that one
//     is dropped.
//   - of an issuing key is not taken if the root's list names that key; else it is taken if its counter is greater than that of the issuing key's list that is
//     kept, whichever issuing key signed that.
//
// A leaf's key is revoked if either list names it, an issuing key only if the root's does: what an issuing key could say against another one, its thief could
// say too. No list at all means that none was ever made, or that all that was revoked has long expired; what is kept stays.
package token
