package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"unsafe"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/entitlement/canonical"
	"github.com/latchkey/latchkey/replication"
)

// command is one command while it is applied: the batch, and the accounts that it changes.
type command struct {
	*batch
	Command
	accounts []*accountEdit // in the order in which they were first touched, which is the order of their changes
	seen     seenRecord     // the account that was looked for last

	// customers holds whom the command's own event names as an aggregator's customers, empty for nobody: it is not written yet.
	customers map[entitlement.Link]toldCustomer
	// listed holds with which version it tells everything that a customer has: see vanished.go.
	listed map[entitlement.Link]int64

	told []toldPurchase // what the purchases that are planned will say of their buyers

	claim *claimRow     // of the one purchase that the command is about; nil: it claims none
	lost  *lostRow      // who had it until now; nil: nobody loses it
	code  *purchaseCode // what it is delivered by from now on; nil: nothing more

	groups []*mergedGroup // whose accounts the command changes

	personal []Sealed // what the command carries of persons, once somebody has asked for it

	buyer   string // index of the address in the command's own message, empty for none; see contacts.go
	buyerOf entitlement.Link

	cardsOf string   // a customer of Stripe who has another card by the command's own message, empty for none; see cards.go
	cards   []string // all that are known of them by now

	// relock: which card pays counts since this command, or no more. It holds the accounts whose trial locks were found anew. Nil: nothing changed.
	relock map[entitlement.AccountID]bool

	nameGiven   entitlement.AccountID // who gets further names by the command, empty for nobody; see trials.go
	namesByThen []entitlement.Alias   // all that they have then

	bystanders []entitlement.AccountID // who has lost what the command changes: that is nothing for their audit trail

	about []entitlement.AccountID // further accounts whose audit trail has the command
	refs  Refs                    // what else it is about, as far as its body and its result do not say so
}

// apply folds one entry of the log into the state. A command that cannot be done is a Result; an error of the files or a
// command of a newer version is b.err, which ends the process.
func (b *batch) apply(entry []byte, d *decoded) Result {
	b.at = b.journal.append(journaled(entry))
	if d == nil {
		d = decodeEntry(entry)
	}
	if d.err != nil {
		b.fail(fmt.Errorf("%w: %w", errUnknownCommand, d.err))
		return Result{}
	}
	// Stamps never go back, even if a leader's proposals overtook each other.
	b.now = max(b.st.Stamp, d.Stamp)
	b.st.Stamp = b.now
	b.dropIdempotency()
	c := &command{batch: b, Command: d.Command}
	result := c.run(d)
	if result.Revision == (replication.Revision{}) {
		result.Revision = b.revision()
	}
	if result.Stamp == 0 { // the repeat of a request keeps the first one's
		result.Stamp = b.now
	}
	if result.Rejection != nil {
		result.Outcome = Rejected
	}
	if b.err == nil && b.journal.full() {
		b.sealSegment()
	}
	return result
}

func (b *batch) sealSegment() {
	at, sum, err := b.journal.seal()
	if err != nil {
		b.fail(fmt.Errorf("seal segment %d: %w", at.segment, err))
		return
	}
	b.put(bucketSegments, binary.BigEndian.AppendUint64(nil, at.segment), binary.BigEndian.AppendUint64(bytes.Clone(sum[:]), uint64(at.offset)))
}

func (c *command) run(d *decoded) Result {
	if c.st.Epoch == 0 && c.Type != TypeInit {
		return rejected(SlugInvalidRequest, "the cluster is not founded yet")
	}
	switch c.Type {
	case TypeInit:
		return plain(c, c.init)
	case TypeRecordEvent:
		return c.recordEvent(d)
	case TypeCreate:
		return api(c, "account.created", c.createAccount)
	case TypeAddAlias:
		return api(c, "alias.added", c.addAlias)
	case TypePatch:
		return api(c, "account.updated", c.patchAccount)
	case TypeEndSessions:
		return api(c, "sessions.ended", c.endSessions)
	case TypeStartSession:
		return api(c, "session.started", c.startSession)
	case TypePutGrant:
		return api(c, "grant.created", c.putGrant)
	case TypeDeleteGrant:
		return api(c, "grant.deleted", c.deleteGrant)
	case TypePutCatalog:
		return api(c, "catalog.replaced", c.putCatalog)
	case TypePutPolicy:
		return api(c, "policy.replaced", c.putPolicy)
	case TypePutKeys:
		return plain(c, c.putKeys)
	case TypePutRevocations:
		return plain(c, c.putRevocations)
	case TypeAddAPIKey:
		return keyChange(c, "api_key.added", c.addAPIKey)
	case TypeRevokeAPIKey:
		return keyChange(c, "api_key.revoked", c.revokeAPIKey)
	case TypeTouchAPIKeys:
		return plain(c, c.touchAPIKeys)
	case TypeTrim:
		return plain(c, c.trim)
	case TypeRaiseRules:
		return plain(c, c.raiseRules)
	case TypeRaiseEpoch:
		return plain(c, c.raiseEpoch)
	case TypePutMember:
		return plain(c, c.putMember)
	case TypeRemoveMember:
		return plain(c, c.removeMember)
	case TypeClaim:
		return api(c, "purchase.claimed", c.claimPurchase)
	case TypeKeepAnswer:
		return plain(c, c.keepAnswer)
	case TypeMerge:
		return api(c, auditMerged, c.mergeAccounts)
	case TypeUndoMerge:
		return api(c, "merge.undone", c.undoMerge)
	case TypePutIntent:
		return api(c, "intent.created", c.putIntent)
	case TypeEndIntent:
		return api(c, "intent.ended", c.endIntent)
	case TypeSubmitIntent:
		return api(c, "intent.submitted", c.submitIntent)
	case TypeRestore:
		return api(c, "purchase.restored", c.restorePurchase)
	case TypeConsume:
		return api(c, "credits.consumed", c.consume)
	case TypeAwait:
		return api(c, "purchase.awaited", c.awaitPurchase)
	case TypeLogin:
		return api(c, "session.login", c.login)
	case TypePutLink:
		return api(c, "link.created", c.putLink)
	case TypeRedeemLink:
		return api(c, "link.redeemed", c.redeemLink)
	case TypePutCode:
		return api(c, "code.created", c.putCode)
	case TypeRedeemCode:
		return api(c, "code.redeemed", c.redeemCode)
	case TypeRevokeCode:
		return api(c, "code.revoked", c.revokeCode)
	case TypePutDevice:
		return api(c, "device.put", c.putDevice)
	case TypePutContact:
		return api(c, "account.updated", c.putContact)
	case TypeDismiss:
		return api(c, "suggestion.dismissed", c.dismissSuggestion)
	case TypeErase:
		return api(c, "account.erased", c.eraseAccount)
	case TypeNoteGranted:
		return plain(c, c.noteGranted)
	case TypeExport:
		return api(c, "account.exported", c.exportAccount)
	}
	c.fail(fmt.Errorf("type %d: %w", c.Type, errUnknownCommand))
	return Result{}
}

func rejected(slug, detail string) Result {
	return Result{Rejection: &Rejection{Slug: slug, Detail: detail}}
}

// plain runs a command of the cluster itself: no idempotency key, no audit trail.
func plain[T any](c *command, fn func(*T) Result) Result {
	var body T
	if err := entitlement.Decode(c.Body, &body); err != nil {
		return rejected(SlugInvalidRequest, "command body")
	}
	result := fn(&body)
	result.Outcome = Recorded
	return result
}

// decoded is an entry of the log, decoded.
type decoded struct {
	Command
	event  *RecordEvent // of TypeRecordEvent
	digest [32]byte     // of the event
	bad    bool         // the body does not decode
	err    error        // ErrCommand
}

// decodeEntry decodes an entry, parts of which the result is made of: entry must never change again, its stamp apart.
func decodeEntry(entry []byte) *decoded {
	d := &decoded{}
	if d.Command, d.err = DecodeCommand(entry); d.err != nil || d.Type != TypeRecordEvent {
		return d
	}
	d.event = &RecordEvent{}
	if err := entitlement.DecodeShared(d.Body, d.event); err != nil {
		d.bad = true
		return d
	}
	d.digest = eventDigest(d.Body, &d.event.Event)
	return d
}

// The CBOR of a RecordEvent begins with a map of one pair (key 1), whose value is the event's map of at most 23 pairs; Raw is
// that map's last pair (key 8).
const (
	cborMap    = 0xa0
	recordHead = "\xa1\x01"
	rawKey     = 8
)

// eventDigest is entitlement.Event.Digest taken from the bytes that the event was decoded from, which saves encoding it again: Raw
// is cut from their end, and counted out of the map's header. Bytes that are not as we encode them are encoded anew.
func eventDigest(body []byte, ev *entitlement.Event) [sha256.Size]byte {
	if len(ev.Raw) == 0 || len(body) < 3 || string(body[:2]) != recordHead || body[2] <= cborMap || body[2] > cborMap+23 {
		return ev.Digest()
	}
	before := canonical.Writer{Buffer: make([]byte, 0, 10)}
	before.Buffer = append(before.Buffer, rawKey)
	before.BytesHead(len(ev.Raw))
	cut := len(body) - len(ev.Raw) - len(before.Buffer)
	if cut < 3 || !bytes.HasPrefix(body[cut:], before.Buffer) || !bytes.HasSuffix(body, ev.Raw) {
		return ev.Digest()
	}
	h := sha256.New()
	h.Write([]byte{body[2] - 1})
	h.Write(body[3:cut])
	var digest [sha256.Size]byte
	h.Sum(digest[:0])
	return digest
}

// known reports whether this version knows the command's type.
func (t CommandType) known() bool {
	switch t {
	case TypeMerge, TypeUndoMerge, TypePutIntent, TypeEndIntent, TypeSubmitIntent, TypeRestore, TypeConsume, TypeAwait, TypePutRevocations, TypeLogin, TypePutContact, TypePutLink, TypeRedeemLink,
		TypePutCode, TypeRedeemCode, TypeRevokeCode, TypePutDevice, TypeErase, TypeExport, TypeNoteGranted, TypeDismiss:
		return true
	}
	return t >= TypeInit && t <= TypeKeepAnswer
}

// since is the version of the rules from which on a command may be proposed: a node that does not know its type ends.
func (t CommandType) since() uint32 {
	if t > TypeClaim {
		return rulesAccounts
	}
	return 0
}

// prepared keeps what Propose decoded until the state machine of this node applies the same bytes, so that a leader decodes
// once. The key is where the bytes lie: Raft hands the leader's state machine the slice that was proposed.
type prepared struct {
	mu      sync.Mutex
	entries map[*byte]*decoded
}

func newPrepared() *prepared { return &prepared{entries: map[*byte]*decoded{}} }

func (p *prepared) add(entry []byte, d *decoded) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries[unsafe.SliceData(entry)] = d
}

// take returns what was added for entry, or nil, and forgets it.
func (p *prepared) take(entry []byte) *decoded {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.entries) == 0 || len(entry) == 0 {
		return nil
	}
	at := unsafe.SliceData(entry)
	d := p.entries[at]
	delete(p.entries, at)
	return d
}
