package writer

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// maxWebhookBytes is the largest message of a provider that is taken. The largest that any of them sends is about 256 KiB.
const maxWebhookBytes = 1 << 20

// webhookAnswer is what a provider is told, and what an operator sees in the provider's log of deliveries.
type webhookAnswer struct {
	EventID   string        `json:"event_id"`
	Revision  string        `json:"revision"`
	Duplicate bool          `json:"duplicate"`
	Outcome   store.Outcome `json:"outcome"`
}

// handleWebhook takes a provider's message: verify the raw bytes, parse, commit, answer. The answer comes after the commit: the
// provider stops repeating itself at the first 2xx, so an earlier one would lose the event if this node died here.
func (w *Writer) handleWebhook(rw http.ResponseWriter, r *http.Request) error {
	began := time.Now()
	env, name := entitlement.Environment(r.PathValue("env")), entitlement.Provider(r.PathValue("provider"))
	adapter, err := w.adapter(env, name)
	if err != nil {
		if status, p := provider.NotServedStatus(name), problem.From(err); status != 0 {
			return p.InStatus(status)
		}
		return err
	}
	body, err := readBody(r, maxWebhookBytes)
	if err == nil {
		if handshake := adapter.Delivery().Handshake; handshake != nil {
			if answer, ok := handshake(provider.Request{Header: r.Header, Body: body}); ok {
				rw.Header().Set("Content-Type", "application/json")
				_, err := rw.Write(answer)
				return err
			}
		}
	}
	var answer webhookAnswer
	outcome := outcomeInvalid
	switch {
	case errors.Is(err, problem.New(problem.BodyTooLarge, "")):
		outcome = outcomeBodyTooLarge
	case err == nil:
		answer, outcome, err = w.takeWebhook(r, body, env, adapter)
	}
	w.metrics.webhook(name, outcome, time.Since(began))
	if err != nil {
		if n := w.refusals.due(w.now()); n > 0 {
			w.log.WarnContext(r.Context(), "webhooks refused", "provider", name, "environment", env, "outcome", outcome, "request_id", problem.RequestID(r.Context()), "since_last", n)
		}
		return err
	}
	return writeJSON(rw, http.StatusOK, answer)
}

// adapter returns what understands the provider's messages in the environment. Error: a problem.
func (w *Writer) adapter(env entitlement.Environment, name entitlement.Provider) (provider.Adapter, error) {
	if _, ok := w.cfg.Environments[env]; !ok {
		return nil, problem.New(problem.UnknownEnvironment, "This cluster does not serve such an environment.")
	}
	adapter := w.adapters[env][name]
	if adapter == nil {
		return nil, problem.New(problem.NotFound, "No such provider is configured in this environment.")
	}
	return adapter, nil
}

// takeWebhook returns the answer, and the outcome in the words of the metrics.
func (w *Writer) takeWebhook(r *http.Request, body []byte, env entitlement.Environment, adapter provider.Adapter) (webhookAnswer, string, error) {
	var answer webhookAnswer
	ctx := r.Context()
	// The tolerance is judged by the clock of the node that the message reached, before anything waits for a leader.
	err := adapter.Verify(provider.Request{Header: r.Header, Body: body}, w.now())
	delivery := w.doubts.judge(ctx, w.log, env, adapter, err)
	switch {
	case errors.Is(err, provider.ErrStale):
		return answer, outcomeStale, refused(delivery, problem.New(problem.StaleSignature, "The signature's time is too far from now."))
	case err != nil:
		return answer, outcomeSignature, refused(delivery, problem.New(problem.InvalidSignature, "The message is not authentic by anything that is configured here."))
	}
	ev, err := adapter.Parse(body, env)
	if err != nil {
		return answer, outcomeError, err
	}
	command := w.recordOf(ev, env, adapter, body)
	var result store.Result
	if patience := adapter.Delivery().Patience; patience > 0 {
		result, err = w.proposePatiently(ctx, env, command, patience)
	} else if err = w.speaks(ev.Provider); err == nil {
		result, err = w.propose(ctx, store.TypeRecordEvent, env, command)
	}
	if err != nil {
		return answer, outcomeUnavailable, err
	}
	fault.Point("committed-not-answered")
	// The audit trail has it; the log is for what surprises.
	if w.log.Enabled(ctx, slog.LevelDebug) {
		w.log.DebugContext(ctx, "event recorded", "provider", ev.Provider, "environment", env, "event_id", result.EventID, "type", ev.Type,
			"outcome", result.Outcome, "duplicate", result.Duplicate, "revision", result.Revision.String(), "correlation_id", problem.RequestID(ctx))
	}
	if result.Outcome == store.Recorded && !result.Duplicate {
		w.metrics.eventRecorded(ev.Provider, recordedByWebhook, ev.CreatedAt, w.now())
		w.alarmUnmapped(ctx, env, &ev)
		w.alarmSoldTwice(ctx, env, &ev, result.Account)
	}
	answer = webhookAnswer{EventID: result.EventID, Revision: result.Revision.String(), Duplicate: result.Duplicate, Outcome: result.Outcome}
	return answer, webhookOutcome(result), nil
}

// refused is a refusal in the status that the provider understands.
func refused(d provider.Delivery, p *problem.Problem) error {
	if d.RefusedStatus != 0 {
		return p.InStatus(d.RefusedStatus)
	}
	return p
}

// selfDoubt counts, on this node, how many messages in a row were refused for a reason that may be our own mistake. A stranger who sends as many gets 503 for
// 401, and nothing else by it.
type selfDoubt struct {
	mu    sync.Mutex
	inRow map[entitlement.Environment]map[entitlement.Provider]int
}

// judge notes what Verify said of a message, and returns how the provider is to be answered.
func (d *selfDoubt) judge(ctx context.Context, log *slog.Logger, env entitlement.Environment, adapter provider.Adapter, verified error) provider.Delivery {
	delivery := adapter.Delivery()
	if delivery.DoubtAfter == 0 || verified != nil && !errors.Is(verified, provider.ErrUntrusted) && !errors.Is(verified, provider.ErrStale) {
		return delivery // certainly forged: it says nothing about us
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inRow == nil {
		d.inRow = map[entitlement.Environment]map[entitlement.Provider]int{}
	}
	if d.inRow[env] == nil {
		d.inRow[env] = map[entitlement.Provider]int{}
	}
	if verified == nil {
		d.inRow[env][adapter.Provider()] = 0
		return delivery
	}
	d.inRow[env][adapter.Provider()]++
	switch n := d.inRow[env][adapter.Provider()]; {
	case n <= delivery.DoubtAfter:
		return delivery
	case n == delivery.DoubtAfter+1:
		log.ErrorContext(ctx, "no message of this provider is authentic any more: its certificates, the app and the clock that are configured here may be wrong, so that it is told to come again",
			"provider", adapter.Provider(), "environment", env, "refused", n)
	}
	delivery.RefusedStatus = http.StatusServiceUnavailable
	return delivery
}

// speaks reports whether every writer understands what the provider tells: during an upgrade from the release that knew Stripe alone the
// others are told to come again. Error: a problem.
func (w *Writer) speaks(p entitlement.Provider) error {
	if p == entitlement.Stripe {
		return nil
	}
	var rules uint32
	err := w.store.View(func(r *store.Reader) error {
		rules = r.Rules()
		return nil
	})
	if err != nil || rules < store.RulesChains {
		return unavailable("The writers are being upgraded. Only Stripe's messages are taken until all of them know this provider.")
	}
	return nil
}

func webhookOutcome(result store.Result) string {
	if result.Duplicate && result.Outcome != store.Conflicting {
		return outcomeDuplicate
	}
	return string(result.Outcome)
}
