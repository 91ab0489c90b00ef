package store

import (
	"bytes"
	"crypto/sha256"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// keepAnswer remembers the answer to a request under its Idempotency-Key. The first one that stays is kept, whoever comes later; Existing says
// that it was not this one.
func (c *command) keepAnswer(body *KeepAnswer) Result {
	key := body.Idempotency
	if !c.Env.Valid() || key == nil || len(body.Answer) > MaxKeptAnswerBytes {
		return rejected(SlugInvalidRequest, "nothing that can be remembered")
	}
	scope := sha256.Sum256(key.Scope)
	var seen idempotencyRow
	if c.decode(bucketIdempotency, scope[:], &seen) && c.now-seen.Stamp < idempotencySeconds {
		switch {
		case !bytes.Equal(seen.Body, key.Body):
			return rejected(SlugIdempotencyMismatch, mismatch)
		case len(seen.Answer) > 0 || len(body.Answer) == 0:
			return Result{Account: body.Account, Existing: true}
		}
	}
	result := Result{Account: body.Account, Revision: c.revision(), Stamp: c.now, Outcome: Recorded}
	c.remember(scope[:], &idempotencyRow{Body: key.Body, Result: entitlement.Encode(&result), Answer: body.Answer, Stamp: c.now})
	return result
}

// KeptAnswer is what KeepAnswer remembers under an Idempotency-Key.
type KeptAnswer struct {
	Body   []byte // Idempotency.Body of the first request
	Answer []byte // empty: none that stays
}

// KeptAnswer returns what is remembered under Idempotency.Scope at now, Unix seconds.
func (r *Reader) KeptAnswer(scope []byte, now int64) (kept KeptAnswer, found bool, err error) {
	sum := sha256.Sum256(scope)
	var row idempotencyRow
	if found, err = r.decode(bucketIdempotency, sum[:], &row); err != nil || !found || now-row.Stamp >= idempotencySeconds {
		return KeptAnswer{}, false, err
	}
	return KeptAnswer{Body: row.Body, Answer: row.Answer}, true, nil
}
