package writer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Who pays twice is found by looking at the accounts, of which there may be millions. So the leader looks at some of them at a time, and for a hundredth of the time only:
// a million accounts take it a quarter of an hour. What it found last stands in the metrics and in its status.

const (
	// doublesEvery is the pause between two looks at all accounts, doublesRest how many times as long as one part of a look took is waited before the next part.
	doublesEvery = time.Minute
	doublesRest  = 99
)

var doubleKinds = []entitlement.DoubleKind{entitlement.DoubleSubscriptions, entitlement.DoublePaid, entitlement.DoubleTrials}

// watchDoubles counts the accounts that have doubles, while ctx, the leader's, lives. Another leader counts anew.
func (w *Writer) watchDoubles(ctx context.Context) {
	defer w.showDoubles(nil)
	for {
		if counted, err := w.countDoubles(ctx, doublesScanned); err == nil {
			w.showDoubles(counted)
		} else if ctx.Err() == nil {
			w.log.WarnContext(ctx, "doubles not counted", "error", err)
		}
		if !wait(ctx, doublesEvery, nil, nil) {
			return
		}
	}
}

// doublesCount holds how many accounts of each environment have a double.
type doublesCount map[entitlement.Environment]*doubledAccounts

type doubledAccounts struct {
	kinds  map[entitlement.DoubleKind]int
	billed int // accounts that pay twice. Two trials cost nobody anything
}

// add counts an account's doubles.
func (n *doubledAccounts) add(doubles []doubleShown) {
	has := map[entitlement.DoubleKind]bool{}
	for _, d := range doubles {
		has[d.Kind] = true
	}
	for kind := range has {
		n.kinds[kind]++
	}
	if has[entitlement.DoubleSubscriptions] || has[entitlement.DoublePaid] {
		n.billed++
	}
}

// countDoubles looks at all accounts, at part of them at a time. Errors: those of the reads, ctx.Err.
func (w *Writer) countDoubles(ctx context.Context, part int) (doublesCount, error) {
	counted := doublesCount{}
	for env := range w.cfg.Environments {
		counted[env] = &doubledAccounts{kinds: map[entitlement.DoubleKind]int{}}
		for after := entitlement.AccountID(""); ; {
			began := time.Now()
			err := w.store.View(func(reader *store.Reader) error {
				index, err := w.catalogs.index(reader, env)
				if err != nil {
					return err
				}
				after, err = reader.Accounts(env, after, part, func(account *entitlement.Account) (more bool, err error) {
					doubles, err := w.doublesOf(reader, env, account, index)
					counted[env].add(doubles)
					return true, err
				})
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("doubles in %s: %w", env, err)
			}
			if !wait(ctx, doublesRest*time.Since(began), nil, nil) {
				return nil, ctx.Err()
			}
			if after == "" {
				break
			}
		}
	}
	return counted, nil
}

// showDoubles puts a count into the metrics and the status; nil is none.
func (w *Writer) showDoubles(counted doublesCount) {
	for _, env := range entitlement.Environments {
		for _, kind := range doubleKinds {
			n := 0
			if of := counted[env]; of != nil {
				n = of.kinds[kind]
			}
			w.metrics.doubles.WithLabelValues(string(env), string(kind)).Set(float64(n))
		}
	}
	w.doubles.Store(&counted)
}

// alarmsOfDoubles says in words where accounts pay twice.
func (w *Writer) alarmsOfDoubles() (alarms []string) {
	counted := w.doubles.Load()
	if counted == nil {
		return nil
	}
	for _, env := range slices.Sorted(maps.Keys(*counted)) {
		if n := (*counted)[env].billed; n > 0 {
			alarms = append(alarms, fmt.Sprintf("accounts in %s that pay twice: %d: GET /v1/doubles", env, n))
		}
	}
	return alarms
}
