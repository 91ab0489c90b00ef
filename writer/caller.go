package writer

import (
	"context"
	"net/http"

	"github.com/latchkey/latchkey/writer/internal/store"
)

// The audit trail says whose credential asked for a change. Who serves a request puts that into its context as soon as it knows, and whatever is proposed
// for the request carries it.

type callerKey struct{}

func withCaller(ctx context.Context, c store.Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// by returns the request as one that the caller sent.
func by(r *http.Request, c store.Caller) *http.Request {
	return r.WithContext(withCaller(r.Context(), c))
}

// callerOf returns what a command proposed under ctx says of its caller: nothing for a writer by itself, and while an older writer could not read it.
func (w *Writer) callerOf(ctx context.Context) string {
	caller, _ := ctx.Value(callerKey{}).(store.Caller)
	if w.store.Position().Rules < store.RulesCallers {
		return ""
	}
	return caller.String()
}

// keyCaller is the caller with an API key.
func keyCaller(key *store.APIKey) store.Caller {
	return store.Caller{Kind: store.CallerKey, Name: key.Name}
}

// appCaller is the caller with a session, or with the token of an identity provider in its place.
func appCaller(signIn bool) store.Caller {
	if signIn {
		return store.Caller{Kind: store.CallerSignIn}
	}
	return store.Caller{Kind: store.CallerSession}
}
