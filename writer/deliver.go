package writer

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/outbound"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// What is delivered by a code is mailed to its buyer by the leader: first the code is committed, then it is sent, then that it was. A leader that fails in between
// leaves it to the next one, which makes the same code again, so that a mail may come twice, with one code in it. The address is asked for at that moment and
// kept nowhere. All of the memory here is about when to try again.

const (
	// deliverAtOnce is how many buyers are written to at a time, and deliverRound how many in a round.
	deliverAtOnce = 4
	deliverRound  = 64
	// deliverPage is how many rows one read transaction covers.
	deliverPage = 512
	// A look at the state comes deliverGather after it changed and takes at most a tenth of the time.
	deliverGather = 100 * time.Millisecond
	deliverShare  = 10
	// The pause before another try, doubled each time. What nobody can be written to about waits the longest.
	deliverPauseMin = time.Second
	deliverPauseMax = 15 * time.Minute
	// deliverWithin bounds one delivery: asking where to, sending, and two commands.
	deliverWithin = time.Minute
)

// errNoAddress means that nobody knows where the buyer can be written to.
var errNoAddress = errors.New("no address of the buyer is known")

// deliver mails codes while ctx, the leader's, lives. Without mail the customer's backend delivers them.
func (w *Writer) deliver(ctx context.Context) {
	if w.mail == nil || w.sealer == nil {
		return
	}
	var running sync.WaitGroup
	for env := range w.cfg.Environments {
		d := &delivering{Writer: w, env: env, tried: map[entitlement.PurchaseID]*deliverTry{}}
		running.Go(func() { d.run(ctx) })
	}
	running.Wait()
}

// delivering is the work on one environment in one term of this leader.
type delivering struct {
	*Writer
	env   entitlement.Environment
	tried map[entitlement.PurchaseID]*deliverTry
	round int
}

type deliverTry struct {
	next  time.Time
	pause time.Duration
	seen  int // round
}

func (d *delivering) run(ctx context.Context) {
	for ctx.Err() == nil {
		applied := d.store.Applied()
		began := time.Now()
		due, next, err := d.due(began)
		took := time.Since(began)
		if err != nil {
			d.log.WarnContext(ctx, "codes to be sent not read", "environment", d.env, "error", err)
			next = began.Add(deliverPauseMin)
		}
		var sending sync.WaitGroup
		slots := make(chan struct{}, deliverAtOnce)
		for _, id := range due {
			slots <- struct{}{}
			sending.Go(func() {
				d.send(ctx, id)
				<-slots
			})
		}
		sending.Wait()
		if !wait(ctx, max(deliverShare*took, deliverGather), nil, nil) {
			return
		}
		if len(due) > 0 {
			continue // some of them may be due again before anything else happens
		}
		if !wait(ctx, time.Until(next), applied, nil) {
			return
		}
	}
}

// due returns which purchases' codes are to be sent now, and when to look again if nothing happens.
func (d *delivering) due(now time.Time) (due []entitlement.PurchaseID, next time.Time, err error) {
	next, d.round = now.Add(deliverPauseMax), d.round+1
	for after := entitlement.PurchaseID(""); ; {
		var page []store.OwedCode
		if err := d.store.View(func(r *store.Reader) (err error) {
			page, err = r.OwedCodes(d.env, after, deliverPage)
			return err
		}); err != nil {
			return nil, next, err
		}
		for _, owed := range page {
			try := d.tried[owed.Purchase]
			if try != nil {
				try.seen = d.round
			}
			switch {
			case try != nil && try.next.After(now):
				if try.next.Before(next) {
					next = try.next
				}
			case len(due) < deliverRound:
				if try == nil {
					try = &deliverTry{seen: d.round}
					d.tried[owed.Purchase] = try
				}
				try.pause = min(max(2*try.pause, deliverPauseMin), deliverPauseMax)
				try.next = now.Add(try.pause)
				due = append(due, owed.Purchase)
			}
		}
		if len(page) < deliverPage {
			break
		}
		after = page[len(page)-1].Purchase
	}
	for id, try := range d.tried {
		if try.seen != d.round {
			delete(d.tried, id)
		}
	}
	return due, next, nil
}

// send delivers what a purchase sold by code.
func (d *delivering) send(ctx context.Context, id entitlement.PurchaseID) {
	ctx, cancel := context.WithTimeout(problem.WithRequestID(ctx, newID()), deliverWithin)
	defer cancel()
	purchase, products, err := d.sold(id)
	if err == nil && len(products) == 0 {
		return // the catalog does not know yet what was sold
	}
	var address string
	if err == nil {
		address, err = d.address(ctx, purchase)
	}
	for _, product := range products {
		if err == nil {
			err = d.sendOne(ctx, id, product, address)
		}
	}
	attributes := []any{"environment", d.env, "purchase_id", id, "correlation_id", problem.RequestID(ctx)}
	switch {
	case err == nil:
		d.metrics.codes.WithLabelValues(codeMailed).Inc()
		d.log.InfoContext(ctx, "code mailed", attributes...)
	case ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded): // else the next leader sends it
		d.metrics.codes.WithLabelValues(codeNotMailed).Inc()
		d.log.WarnContext(ctx, "code not mailed", append(attributes, "error", err)...)
	}
}

// sold returns what of a purchase is to be delivered by code: the store's names of the products with the provider that the catalog has them under.
func (d *delivering) sold(id entitlement.PurchaseID) (purchase store.PurchaseDetail, products []entitlement.Product, err error) {
	err = d.store.View(func(r *store.Reader) (err error) {
		var policy entitlement.Policy
		index, err := d.catalogs.index(r, d.env)
		if err == nil {
			policy, err = r.Policy(d.env)
		}
		if err == nil {
			purchase, _, err = r.Purchase(d.env, id)
		}
		if err != nil {
			return err
		}
		folded := entitlement.Fold(purchase.Evidence, policy)
		for i := range folded.Items {
			item := &folded.Items[i]
			product, ok := index.Package(&folded, item)
			known := slices.ContainsFunc(products, func(p entitlement.Product) bool { return p.ID == item.Term.Product })
			if ok && !known && !slices.Contains(purchase.Delivered, item.Term.Product) && index.Owes(&folded, item) {
				products = append(products, entitlement.Product{Provider: product.Provider, ID: item.Term.Product})
			}
		}
		return nil
	})
	return purchase, products, err
}

// address returns where the buyer is written to: what they said when they paid, else the address of the account that has the purchase. Errors: errNoAddress,
// those of provider.Addresser.
func (d *delivering) address(ctx context.Context, purchase store.PurchaseDetail) (string, error) {
	for _, api := range d.pullers[d.env] {
		teller, ok := api.(provider.Addresser)
		if !ok {
			continue
		}
		address, err := teller.BuyerAddress(ctx, purchase.Evidence)
		if err == nil {
			if address, err = parseEmail("email", address); err == nil {
				return address, nil
			}
		} else if !errors.Is(err, provider.ErrGone) {
			return "", err
		}
	}
	var address string
	err := d.store.View(func(r *store.Reader) error {
		if purchase.Owner == "" {
			return nil
		}
		members, _, err := r.Group(d.env, purchase.Owner)
		if err != nil {
			return err
		}
		contacts, err := accountContacts(r, d.env, members)
		for _, contact := range contacts {
			if text, err := d.sealer.open(d.env, contactPlace(contact.account), contact.Sealed); err == nil && contact.Until == 0 {
				address = text
			}
		}
		return err
	})
	if err == nil && address == "" {
		err = errNoAddress
	}
	return address, err
}

// sendOne makes the code of one product, or finds it, sends it, and notes that it was sent. Errors: a problem, those of outbound.Send.
func (d *delivering) sendOne(ctx context.Context, id entitlement.PurchaseID, product entitlement.Product, address string) error {
	command := store.PutCode{ID: newThing(codeIDPrefix, nil), Provider: product.Provider, Product: product.ID, Purchase: id}
	code := d.sealer.purchaseCode(d.env, command.ID)
	command.Hash = hashCode(code)
	result, err := d.propose(ctx, store.TypePutCode, d.env, command)
	if err != nil {
		return err
	}
	if result.Rejection != nil { // it was taken back meanwhile
		return rejectedAs(result.Rejection)
	}
	if result.Existing {
		code = d.sealer.purchaseCode(d.env, result.Code.ID)
	} else {
		d.metrics.codes.WithLabelValues(codeMade).Inc()
	}
	if err := outbound.Send(ctx, d.mail, codeMessage(address, code, d.cfg.Mail.CodeURL)); err != nil {
		return err
	}
	command.Delivered = true
	_, err = d.propose(ctx, store.TypePutCode, d.env, command)
	return err
}

func codeMessage(address, code, page string) outbound.Message {
	text := "Thank you for your purchase. Your code is\n\n    " + code + "\n\n"
	if page != "" {
		text += "Redeem it here:\n\n" + strings.ReplaceAll(page, codePlace, code) + "\n\n"
	}
	text += "It works once, for whoever redeems it first. What it gives begins then.\n"
	hash := hashCode(code)
	return outbound.Message{ID: "code-" + hex.EncodeToString(hash[:16]), Kind: outbound.KindCode, To: address, Token: code, Subject: "Your code", Text: text}
}

// countOwedCodes is how many purchases of an environment wait for a code to be sent, up to maxCounted.
func (w *Writer) countOwedCodes(env entitlement.Environment) float64 {
	n := 0
	_ = w.store.View(func(r *store.Reader) error {
		list, err := r.OwedCodes(env, "", maxCounted)
		n = len(list)
		return err
	})
	return float64(n)
}
