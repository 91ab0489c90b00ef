package writer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A request under an Idempotency-Key that is one command is remembered by that command. One whose work is several, or none where everything was known,
// has its answer remembered as it was given.

// idempotencyOf returns what makes the repeat of a request harmless, or nil without an Idempotency-Key. caller is who asks, in bytes that no other
// caller has. Error: a problem.
func idempotencyOf(r *http.Request, env entitlement.Environment, caller, body []byte) (*store.Idempotency, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return nil, nil
	}
	key := values[0]
	if len(values) > 1 || key == "" || len(key) > maxIdempotencyKeyBytes || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, problem.Newf(problem.InvalidRequest, "Idempotency-Key: want one, of 1 to %d printable ASCII characters.", maxIdempotencyKeyBytes)
	}
	h := sha256.New()
	for _, part := range []string{string(env), string(caller), r.Method, r.URL.EscapedPath(), key} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write([]byte(part))
	}
	sum := sha256.Sum256(body)
	return &store.Idempotency{Scope: h.Sum(nil), Body: sum[:]}, nil
}

// keptAnswer returns the answer that the first request under the key got, or nil. Error: an idempotency-mismatch problem.
func (w *Writer) keptAnswer(reader *store.Reader, key *store.Idempotency) ([]byte, error) {
	if key == nil {
		return nil, nil
	}
	kept, found, err := reader.KeptAnswer(key.Scope, w.now().Unix())
	switch {
	case err != nil || !found:
		return nil, err
	case !bytes.Equal(kept.Body, key.Body):
		return nil, problem.New(problem.IdempotencyMismatch, "The idempotency key was used with another request.")
	}
	return bytes.Clone(kept.Answer), nil
}

// keepAnswer remembers the answer under the key and returns the one to be given: another's, where a request under the same key was faster. stays is
// false for an answer that the repeat is not to get: then the key is bound to the request alone. Errors: an idempotency-mismatch problem, those of
// propose.
func (w *Writer) keepAnswer(ctx context.Context, env entitlement.Environment, account entitlement.AccountID, key *store.Idempotency, answer []byte, stays bool) ([]byte, error) {
	if key == nil {
		return answer, nil
	}
	command := store.KeepAnswer{Account: account, Idempotency: key}
	if stays && len(answer) <= store.MaxKeptAnswerBytes {
		command.Answer = answer
	} else if bound, err := w.isBound(key); err != nil || bound {
		return answer, err
	}
	result, err := w.propose(ctx, store.TypeKeepAnswer, env, command)
	switch {
	case err != nil:
		return nil, err
	case result.Rejection != nil:
		return nil, problem.New(problem.Slug(result.Rejection.Slug), sentence(result.Rejection.Detail))
	case !result.Existing:
		return answer, nil
	}
	var first []byte
	err = w.read(ctx, func(reader *store.Reader) (err error) {
		first, err = w.keptAnswer(reader, key)
		return err
	})
	if err != nil || first == nil {
		return answer, err
	}
	return first, nil
}

// isBound reports whether this node knows the key to belong to the request already, which saves an entry of the log.
func (w *Writer) isBound(key *store.Idempotency) (bound bool, err error) {
	err = w.store.View(func(reader *store.Reader) error {
		kept, found, err := reader.KeptAnswer(key.Scope, w.now().Unix())
		bound = found && bytes.Equal(kept.Body, key.Body)
		return err
	})
	return bound, err
}
