package writer

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

const (
	// maxImportBytes bounds one batch of an import: 1000 rows of a wide export are about 2 MiB.
	maxImportBytes = 16 << 20
	// importUnderWay is how many rows of a batch are committed at a time: enough to share the syncs of the disks, and a third of what the leader lets
	// go at once, so that webhooks have their turn.
	importUnderWay = 256
	// maxImportFaults bounds what is said of the rows of a batch that were not understood: they mostly have one fault in common.
	maxImportFaults = 20
)

// ImportBatch is a part of a provider's export.
type ImportBatch struct {
	Kind   string     `json:"kind"` // one of the provider's: "scheduled" or "customers" of RevenueCat, "events" of Adapty
	Header []string   `json:"header"`
	Rows   [][]string `json:"rows"`
}

// ImportResult is what became of rows.
type ImportResult struct {
	Recorded   int `json:"recorded"`
	Duplicates int `json:"duplicates"` // imported before
	Skipped    int `json:"skipped"`    // of the other environment, without a purchase, or a grant of our own
	Unreadable int `json:"unreadable"` // not understood; nothing of them is stored
	Refused    int `json:"refused"`    // not recorded, for the reasons for which a message is not: too large, conflicting

	// Faults are of the first rows of a batch that were not understood, in their order: maxImportFaults at most. Add leaves them out.
	Faults []ImportFault `json:"faults,omitempty"`
}

// ImportFault says what is not understood of a row. It has names of columns and nothing of what is in them.
type ImportFault struct {
	Row     int      `json:"row"` // of the batch, from 0
	Columns []string `json:"columns"`
}

// Add adds up.
func (r *ImportResult) Add(other ImportResult) {
	r.Recorded += other.Recorded
	r.Duplicates += other.Duplicates
	r.Skipped += other.Skipped
	r.Unreadable += other.Unreadable
	r.Refused += other.Refused
}

// Rows is how many rows they are.
func (r *ImportResult) Rows() int {
	return r.Recorded + r.Duplicates + r.Skipped + r.Unreadable + r.Refused
}

// exportReader reads the rows of a provider's export.
type exportReader interface {
	Event(row []string, env entitlement.Environment) entitlement.Event
	Faults(row []string) (columns []string)
}

// newExportReader returns what reads a batch. Its errors are for people.
func newExportReader(name entitlement.Provider, batch *ImportBatch) (exportReader, error) {
	switch name {
	case entitlement.RevenueCat:
		return provider.NewRevenueCatImport(batch.Kind, batch.Header)
	case entitlement.Adapty:
		return provider.NewAdaptyImport(batch.Kind, batch.Header)
	}
	return nil, fmt.Errorf("%s has no export that is known", name)
}

// handleImport records a batch of a provider's export as if its rows had been messages. It answers when all of it is committed.
func (w *Writer) handleImport(rw http.ResponseWriter, r *http.Request) error {
	env, name := entitlement.Environment(r.PathValue("env")), entitlement.Provider(r.PathValue("provider"))
	if _, served := w.cfg.Environments[env]; !served {
		return problem.New(problem.UnknownEnvironment, "This cluster does not serve such an environment.")
	}
	body, err := readBody(r, maxImportBytes)
	if err != nil {
		return err
	}
	var batch ImportBatch
	if err := decodeStrict(body, &batch); err != nil {
		return problem.New(problem.InvalidRequest, sentence(err.Error()))
	}
	export, err := newExportReader(name, &batch)
	if err != nil {
		return problem.New(problem.InvalidRequest, sentence(err.Error()))
	}
	if err := w.speaks(name); err != nil {
		return err
	}
	result, err := w.importRows(r.Context(), env, export, batch.Rows)
	if err != nil {
		return err
	}
	return writeJSON(rw, http.StatusOK, result)
}

// importRows commits rows, many at a time, and returns the first error that one of them came to.
func (w *Writer) importRows(ctx context.Context, env entitlement.Environment, export exportReader, rows [][]string) (ImportResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		mu     sync.Mutex
		total  ImportResult
		work   sync.WaitGroup
		queue  = make(chan int)
		commit = func(n int) (one ImportResult, err error) {
			ev := export.Event(rows[n], env)
			switch ev.Kind {
			case entitlement.Unhandled:
				return ImportResult{Skipped: 1}, nil
			case entitlement.Unreadable:
				return ImportResult{Unreadable: 1, Faults: []ImportFault{{n, export.Faults(rows[n])}}}, nil
			}
			result, err := w.propose(ctx, store.TypeRecordEvent, env, store.RecordEvent{Event: ev})
			switch {
			case err != nil:
				return one, err
			case result.Outcome != store.Recorded:
				return ImportResult{Refused: 1}, nil
			case result.Duplicate:
				return ImportResult{Duplicates: 1}, nil
			}
			w.alarmUnmapped(ctx, env, &ev)
			return ImportResult{Recorded: 1}, nil
		}
	)
	for range min(importUnderWay, len(rows)) {
		work.Go(func() {
			for n := range queue {
				one, err := commit(n)
				if err != nil {
					cancel(err)
					continue
				}
				mu.Lock()
				total.Add(one)
				total.Faults = append(total.Faults, one.Faults...)
				mu.Unlock()
			}
		})
	}
	for n := range rows {
		if ctx.Err() != nil {
			break
		}
		queue <- n
	}
	close(queue)
	work.Wait()
	slices.SortFunc(total.Faults, func(a, b ImportFault) int { return cmp.Compare(a.Row, b.Row) })
	total.Faults = total.Faults[:min(len(total.Faults), maxImportFaults)]
	if err := context.Cause(ctx); err != nil {
		return total, err
	}
	return total, nil
}

// Import records a batch of a provider's export in an environment. Rows that were recorded before change nothing. Error: ErrNotRunning.
func (o *Operator) Import(ctx context.Context, from entitlement.Provider, env entitlement.Environment, batch ImportBatch) (result ImportResult, err error) {
	return result, o.do(ctx, http.MethodPost, "/import/"+url.PathEscape(string(from))+"/"+url.PathEscape(string(env)), batch, &result)
}
