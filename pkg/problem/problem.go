// Package problem is every error that Latchkey's HTTP answers can carry: RFC 9457 (`application/problem+json`) with a closed list of
// types. A type is a promise that clients switch on; the detail is for people and holds no internals. Start at New; the list is in
// list.go, and its page for users, deploy/docs/problems.md, is Catalogue's text.
package problem

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

const (
	// ContentType is the media type of every error answer.
	ContentType = "application/problem+json"

	// BaseURL and a slug make a problem's type. The address also leads to the page that explains it.
	BaseURL = "https://latchkey.dev/problems/"
)

// Problem is one error answer. It implements error, so that the code which finds the mistake returns it as it is. It is immutable once
// made: the methods return copies.
type Problem struct {
	Slug   Slug
	Detail string // one sentence for people about this occurrence; never an internal error's text

	// RetryAfter tells the client when to come again, rounded up to whole seconds. Zero means nothing is said.
	RetryAfter time.Duration

	members []member
	status  int // in place of the kind's; 0 is the kind's
}

// member is an extension member (RFC 9457 section 3.2), such as the owner of a taken alias.
type member struct{ name, value string }

// New returns a problem of the list. A slug that is not in the list becomes Internal when it is written: the list is closed.
func New(slug Slug, detail string) *Problem { return &Problem{Slug: slug, Detail: detail} }

// Newf is New with a formatted detail. The arguments reach the client: no secrets, no internals, no personal data.
func Newf(slug Slug, format string, args ...any) *Problem {
	return New(slug, fmt.Sprintf(format, args...))
}

// With returns a copy of p with the member name, a string, in the answer: what the contract promises beside the five.
func (p *Problem) With(name, value string) *Problem {
	c := *p
	c.members = append(p.members[:len(p.members):len(p.members)], member{name, value})
	return &c
}

// After returns a copy of p with a Retry-After.
func (p *Problem) After(d time.Duration) *Problem {
	c := *p
	c.RetryAfter = d
	return &c
}

// InStatus returns a copy of p that answers with another status than its type has: for a caller that understands no other.
func (p *Problem) InStatus(status int) *Problem {
	c := *p
	c.status = status
	return &c
}

// Error implements error.
func (p *Problem) Error() string { return string(p.Slug) + ": " + p.Detail }

// Is makes errors.Is(err, problem.New(slug, "")) true for every problem of that slug.
func (p *Problem) Is(target error) bool {
	t, ok := target.(*Problem)
	return ok && t.Slug == p.Slug && t.Detail == ""
}

// Status returns the HTTP status of p.
func (p *Problem) Status() int { return cmp.Or(p.status, p.kind().Status) }

// Title returns the title of p, the same in every occurrence of its type.
func (p *Problem) Title() string { return p.kind().Title }

// RetryAfterSeconds returns the Retry-After header's value, or 0 for none.
func (p *Problem) RetryAfterSeconds() int {
	return int((p.RetryAfter + time.Second - 1) / time.Second)
}

// Challenge returns the value of WWW-Authenticate (RFC 9110 section 11.6.1) for answers that ask for a credential, else "".
func (p *Problem) Challenge() string {
	if p.Slug == InvalidCredential || p.Slug == SessionEnded {
		return "Bearer"
	}
	return ""
}

func (p *Problem) kind() *Kind {
	if i, ok := bySlug[p.Slug]; ok {
		return &kinds[i]
	}
	return &kinds[0]
}

// bySlug are the indexes of kinds: whoever is flooded with requests that he refuses looks one up for each.
var bySlug = func() map[Slug]int {
	m := make(map[Slug]int, len(kinds))
	for i, k := range kinds {
		m[k.Slug] = i
	}
	return m
}()

// From returns the problem that err is or wraps. What is none becomes Internal, whose detail says nothing about err: log err with
// the request's id. A nil err gives nil.
func From(err error) *Problem {
	if err == nil {
		return nil
	}
	var (
		p       *Problem
		tooLong *http.MaxBytesError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &tooLong):
		return Newf(BodyTooLarge, "The body is longer than %d bytes.", tooLong.Limit)
	default:
		return New(Internal, "An unexpected fault on our side. It is in our log under the request_id.")
	}
}

// AppendJSON appends p as the body of an answer to the request requestID.
func AppendJSON(dst []byte, p *Problem, requestID string) []byte {
	k := p.kind()
	dst = append(dst, `{"type":"`+BaseURL...)
	dst = append(dst, k.Slug...)
	dst = append(dst, `","title":`...)
	dst = appendString(dst, k.Title)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(p.Status()), 10)
	dst = append(dst, `,"detail":`...)
	dst = appendString(dst, p.Detail)
	dst = append(dst, `,"request_id":`...)
	dst = appendString(dst, requestID)
	for _, m := range p.members {
		dst = append(dst, ',')
		dst = appendString(dst, m.name)
		dst = append(dst, ':')
		dst = appendString(dst, m.value)
	}
	return append(dst, '}')
}

// Write answers r with From(err) and returns it, for the caller to log when its slug is Internal. The request's id comes from r's
// context (WithRequestID).
func Write(w http.ResponseWriter, r *http.Request, err error) *Problem {
	p := From(err)
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store") // an error of now says nothing about the next request
	if s := p.RetryAfterSeconds(); s > 0 {
		h.Set("Retry-After", strconv.Itoa(s))
	}
	if c := p.Challenge(); c != "" {
		h.Set("WWW-Authenticate", c)
	}
	body := AppendJSON(nil, p, RequestID(r.Context()))
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status())
	// The client may have gone; there is nobody left to tell.
	_, _ = w.Write(body)
	return p
}

type requestIDKey struct{}

// WithRequestID returns ctx with the request's id, as it appears in answers and in the log.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id that WithRequestID put into ctx, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// appendString appends s as a JSON string; text without anything to escape, which is nearly all, costs no allocation.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			b, err := json.Marshal(s)
			if err != nil { // never for a string
				b = []byte(`""`)
			}
			return append(dst, b...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
