package entitlement

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// What an identity provider or the customer's own systems call somebody may say who they are. It is kept as a hash, which finds the account as well; the
// names that payment providers use are in their messages anyway.

// Personal reports whether an alias of the kind is kept as a hash.
func (k AliasKind) Personal() bool { return k == OIDCSubject || k == Custom }

// Identifies reports whether an alias of the kind says who somebody is: it was chosen where they have signed in. The others are what stores call a buyer, of whom
// nobody need be known.
func (k AliasKind) Identifies() bool {
	switch k {
	case OIDCSubject, Custom, RevenueCatAppUser, AdaptyCustomerUser, IapticUsername:
		return true
	}
	return false
}

// aliasHashPrefix begins the value of a hashed alias.
const aliasHashPrefix = "sha256:"

// Hashed returns the alias as it is kept: of a personal kind with the hash of its value, of any other the alias itself. Hashing one that is hashed gives another.
func (a Alias) Hashed() Alias {
	if a.Kind.Personal() {
		sum := sha256.Sum256([]byte(a.Value))
		a.Value = aliasHashPrefix + hex.EncodeToString(sum[:])
	}
	return a
}

// IsHashed reports whether the alias looks like one of a personal kind that is hashed.
func (a Alias) IsHashed() bool {
	text, ok := strings.CutPrefix(a.Value, aliasHashPrefix)
	if !ok || !a.Kind.Personal() || len(text) != hex.EncodedLen(sha256.Size) {
		return false
	}
	return !strings.ContainsFunc(text, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

// SubjectKey is the function SubjectKey for an alias of kind oidc_subject, whether it is hashed or not.
func (a Alias) SubjectKey() string {
	if !a.IsHashed() {
		return SubjectKey(a.Value)
	}
	return subjectPrefix + strings.TrimPrefix(a.Value, aliasHashPrefix)
}
