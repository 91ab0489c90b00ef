package entitlement

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
)

const (
	// MaxSessionSeconds is how long a session token lives at most: what was ended longer ago needs no note.
	MaxSessionSeconds = 366 * 24 * 3600
	// maxSignedOut is how many devices of an account are noted as signed out: as many as one may have. Beyond, whatever was issued before the oldest of them was
	// signed out ends with it: a session that was ended never counts again.
	maxSignedOut = 20
	// signedOutBytes is how much of a hash stands for a device of one account.
	signedOutBytes = 16
)

// SignedOut says that a device was signed out of an account.
type SignedOut struct {
	Device string `cbor:"1,keyasint"` // a hash of its id, which is in the session token, and of the account
	From   int64  `cbor:"2,keyasint"` // its session tokens issued before are refused, Unix seconds
}

// signedOutDevice stands for the device that a session token names. Of one that names none it stands for the very token: others of the account that name none are
// of other devices.
func signedOutDevice(id AccountID, device string, issuedAt int64) string {
	text := string(id) + "\x00" + device
	if device == "" {
		text += "\x00" + strconv.FormatInt(issuedAt, 10)
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:signedOutBytes])
}

// SessionEnded reports whether a session token of the account id does not count any more: all sessions were ended since it was issued, or its device was signed out.
// from and out are those of the account.
func SessionEnded(from int64, out []SignedOut, id AccountID, device string, issuedAt int64) bool {
	if issuedAt < from {
		return true
	}
	if len(out) == 0 {
		return false
	}
	name := signedOutDevice(id, device, issuedAt)
	return slices.ContainsFunc(out, func(o SignedOut) bool { return o.Device == name && issuedAt < o.From })
}

// SessionEnded reports whether a session token of the account itself, which may be a part of a merge, does not count any more.
func (a *Account) SessionEnded(device string, issuedAt int64) bool {
	return SessionEnded(a.SessionsFrom, a.SignedOut, a.ID, device, issuedAt)
}

// NextSession returns when a session of the device can be issued that counts, at now or soon after: one that is begun in the second in which others were ended must not
// end with them.
func (a *Account) NextSession(device string, now int64) int64 {
	for at := max(now, a.SessionsFrom); ; at++ {
		if !a.SessionEnded(device, at) {
			return at
		}
	}
}

// SignOut ends the session token of a device that was issued at a time, and those of the same device before it, at now.
func (a *Account) SignOut(device string, issuedAt, now int64) {
	name := signedOutDevice(a.ID, device, issuedAt)
	out := slices.DeleteFunc(slices.Clone(a.SignedOut), func(o SignedOut) bool {
		return o.Device == name || o.From <= a.SessionsFrom || o.From+MaxSessionSeconds <= now
	})
	out = append(out, SignedOut{Device: name, From: max(now, issuedAt) + 1})
	if len(out) > maxSignedOut {
		oldest := slices.MinFunc(out, func(a, b SignedOut) int { return cmp.Compare(a.From, b.From) }).From
		a.SessionsFrom = max(a.SessionsFrom, oldest)
		out = slices.DeleteFunc(out, func(o SignedOut) bool { return o.From <= oldest })
	}
	slices.SortFunc(out, func(a, b SignedOut) int { return cmp.Compare(a.Device, b.Device) })
	a.SignedOut = out
}
