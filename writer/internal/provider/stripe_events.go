package provider

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// Stripe keeps the events that it made, whether a message about them came or not.

const (
	// stripeKeepsEvents is for how long.
	stripeKeepsEvents = 30 * 24 * time.Hour
	// maxStripeEventPages bounds what is read of a day that was not delivered: a million events.
	maxStripeEventPages = 10_000
)

// errMoreEvents means that there are more events than were to be read.
var errMoreEvents = errors.New("more events than are read")

// HistoryReach implements HistoryKeeper.
func (a *StripeAPI) HistoryReach() time.Duration { return stripeKeepsEvents }

// IsMessage implements HistoryKeeper: what we pulled has an id of another form.
func (a *StripeAPI) IsMessage(id string) bool { return strings.HasPrefix(id, "evt_") }

// Messages implements HistoryKeeper: the events between two times of which Stripe says that they were not delivered, and that prove something. What it sent and a
// proxy of ours took is not among them: all that an account does would have to be read for that.
func (a *StripeAPI) Messages(ctx context.Context, from, to time.Time) iter.Seq2[KeptMessage, error] {
	return func(yield func(KeptMessage, error) bool) {
		undelivered := []string{"delivery_success", "false", "created[gte]", strconv.FormatInt(from.Unix(), 10), "created[lt]", strconv.FormatInt(to.Unix()+1, 10)}
		for message, err := range a.events(ctx, maxStripeEventPages, undelivered...) {
			if errors.Is(err, errMoreEvents) {
				err = &PullError{Reason: ErrAnswer, Detail: err.Error()}
			}
			if err != nil {
				yield(KeptMessage{}, err)
				return
			}
			ev, err := readStripe(message, a.env)
			if err == nil && ev.Kind == entitlement.Proof && !yield(KeptMessage{ev, []byte(message.Raw)}, nil) {
				return
			}
		}
	}
}

// events lists events, the newest first, by pages, and errMoreEvents after the most that are read. filter is names and values by turns. Errors: as Pull's,
// after which nothing follows.
func (a *StripeAPI) events(ctx context.Context, most int, filter ...string) iter.Seq2[gjson.Result, error] {
	return func(yield func(gjson.Result, error) bool) {
		after := ""
		for range most {
			if err := a.limit.Wait(ctx); err != nil {
				yield(gjson.Result{}, contextError(ctx, err))
				return
			}
			asked := query(append([]string{"limit", strconv.Itoa(stripePageSize)}, filter...)...)
			if after != "" {
				asked.Add("starting_after", after)
			}
			list, _, err := a.get(ctx, "/v1/events", asked)
			if err != nil {
				yield(gjson.Result{}, err)
				return
			}
			last := ""
			for _, event := range member(list, "data").Array() {
				last, _ = ident(member(event, "id")).(string)
				if event.IsObject() && !yield(event, nil) {
					return
				}
			}
			if member(list, "has_more").Type != gjson.True || last == "" || last == after {
				return
			}
			after = last
		}
		yield(gjson.Result{}, errMoreEvents)
	}
}
