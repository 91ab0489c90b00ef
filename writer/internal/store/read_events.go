package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// StoredEvent is an entry of the audit trail. Its content is in the journal: see Store.EventContent.
type StoredEvent struct {
	Env           entitlement.Environment
	Provider      entitlement.Provider
	ID            string // the provider's, or of what the API did
	Type          string
	Outcome       Outcome
	Revision      replication.Revision // the least one at which its effects are visible
	Stamp         int64                // when the leader took it, Unix seconds
	CreatedAt     int64                // provider's time, Unix seconds
	Purchases     []entitlement.PurchaseID
	Account       entitlement.AccountID // the owner when it was applied; empty is unclaimed
	CorrelationID string
	Caller        Caller // of what the API did, since rules 3
	Refs          Refs   // the same
	Seq           uint64 // order within the cluster: cursors of the lists below

	at place
}

// providers lists whose event ids are looked through where the caller names none.
var providers = []entitlement.Provider{entitlement.Stripe, entitlement.Apple, entitlement.Google, entitlement.RevenueCat, entitlement.Adapty,
	entitlement.Iaptic, entitlement.Web2Wave, entitlement.Latchkey}

// Event returns the events with this id: of one provider, or of all if provider is empty. Conflicting messages under the id
// come after the first. Empty if there is none.
func (r *Reader) Event(env entitlement.Environment, provider entitlement.Provider, id string) ([]StoredEvent, error) {
	asked := providers
	if provider != "" {
		asked = []entitlement.Provider{provider}
	}
	var events []StoredEvent
	for _, p := range asked {
		var row eventRow
		ok, err := r.decode(bucketEvents, eventKey(env, p, id), &row)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		events = append(events, storedEvent(env, p, id, &row))
		prefix := conflictPrefix(env, p, id)
		cursor := r.bucket(bucketConflicts).Cursor()
		for k, value := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, value = cursor.Next() {
			var conflict eventRow
			if err := entitlement.Decode(value, &conflict); err != nil {
				return nil, fmt.Errorf("event: %w: %w", replication.ErrCorrupt, err)
			}
			events = append(events, storedEvent(env, p, id, &conflict))
		}
	}
	return events, nil
}

func storedEvent(env entitlement.Environment, p entitlement.Provider, id string, row *eventRow) StoredEvent {
	ev := StoredEvent{Env: env, Provider: p, ID: id, Type: row.Type, Outcome: row.Outcome, Revision: replication.Revision{Epoch: row.Epoch, N: row.N},
		Stamp: row.Stamp, CreatedAt: row.CreatedAt, Purchases: row.Purchases, Account: row.Account, CorrelationID: row.CorrelationID, Seq: row.Seq,
		Caller: CallerOf(row.Caller), at: place{row.Segment, row.Offset}}
	if row.Refs != nil {
		ev.Refs = *row.Refs
	}
	return ev
}

// Events lists an environment's events in the order of the log, after a Seq (0 for the start).
func (r *Reader) Events(env entitlement.Environment, after uint64, limit int) ([]StoredEvent, error) {
	var events []StoredEvent
	prefix := []byte{envByte(env)}
	cursor := r.bucket(bucketEventOrder).Cursor()
	for k, ref := cursor.Seek(orderKey(env, after+1)); k != nil && len(events) < limit && bytes.HasPrefix(k, prefix); k, ref = cursor.Next() {
		ev, err := r.eventAt(ref)
		if err != nil {
			return nil, err
		}
		events = append(events, ev)
	}
	return events, nil
}

// EventsBefore lists an environment's events against the order of the log, the newest first, before a Seq (0 for the end).
func (r *Reader) EventsBefore(env entitlement.Environment, before uint64, limit int) ([]StoredEvent, error) {
	var events []StoredEvent
	if before == 0 {
		before = math.MaxUint64
	}
	prefix := []byte{envByte(env)}
	cursor := r.bucket(bucketEventOrder).Cursor()
	step := cursor.Prev
	if k, _ := cursor.Seek(orderKey(env, before)); k == nil {
		step = cursor.Last
	}
	k, ref := step()
	for ; k != nil && len(events) < limit && bytes.HasPrefix(k, prefix); k, ref = cursor.Prev() {
		ev, err := r.eventAt(ref)
		if err != nil {
			return nil, err
		}
		events = append(events, ev)
	}
	return events, nil
}

// SeqAfter returns the Seq of an environment's last event at or below a revision, as a cursor: Events after it lists what has
// a later revision. 0 if there is none.
func (r *Reader) SeqAfter(env entitlement.Environment, revision replication.Revision) (uint64, error) {
	// Revisions never fall in the order of the log, so the cursor is found by halving.
	low, high := uint64(0), r.st.EventSeq
	prefix := []byte{envByte(env)}
	cursor := r.bucket(bucketEventOrder).Cursor()
	for low < high {
		middle := low + (high-low)/2 + 1
		k, ref := cursor.Seek(orderKey(env, middle))
		if k == nil || !bytes.HasPrefix(k, prefix) {
			high = middle - 1
			continue
		}
		ev, err := r.eventAt(ref)
		if err != nil {
			return 0, err
		}
		if ev.Revision.Compare(revision) <= 0 {
			low = binary.BigEndian.Uint64(k[1:])
		} else {
			high = middle - 1
		}
	}
	return low, nil
}

// AccountEvents lists what concerns an account, in the order of the log, after a Seq: what named it, and everything about the
// purchases that it owns now. Of one that it has lost it is nothing after the restore or the claim that took it: that is the life of whoever has it. Of accounts that are merged it is
// the same for all of them.
func (r *Reader) AccountEvents(env entitlement.Environment, id entitlement.AccountID, after uint64, limit int) ([]StoredEvent, error) {
	return r.accountEvents(env, id, after, limit, func(event, lost int64) bool { return event <= lost })
}

// OwnEvents is AccountEvents for the person whose account it is: without what took a purchase, which names who has it since.
func (r *Reader) OwnEvents(env entitlement.Environment, id entitlement.AccountID, after uint64, limit int) ([]StoredEvent, error) {
	return r.accountEvents(env, id, after, limit, func(event, lost int64) bool { return event < lost })
}

// accountEvents lists what concerns an account. theirs reports whether an event of a lost purchase is, by its stamp and by when it was lost.
func (r *Reader) accountEvents(env entitlement.Environment, id entitlement.AccountID, after uint64, limit int, theirs func(event, lost int64) bool) ([]StoredEvent, error) {
	account, ok, err := r.Account(env, id)
	if err != nil || !ok {
		return nil, err
	}
	members, _, err := r.Group(env, id)
	if err != nil {
		return nil, err
	}
	var prefixes [][]byte
	for _, member := range members {
		prefixes = append(prefixes, subjectPrefix(env, subjectAccount, string(member)))
	}
	lost := map[entitlement.PurchaseID]int64{} // by any id that it ever had: since when, Unix seconds
	for _, p := range account.Purchases {
		row, _, err := keptRow(r, &r.kept.purchases, bucketPurchases, envKey(env, string(p.ID)))
		if err != nil {
			return nil, err
		}
		at, isLost := row.lostBy(members)
		for _, link := range row.Evidence.Links { // each may have been its id before two purchases turned out to be one
			prefixes = append(prefixes, subjectPrefix(env, subjectPurchase, string(link)))
			if isLost {
				lost[entitlement.PurchaseID(link)] = at
			}
		}
	}
	ofAnother := func(ev *StoredEvent) bool {
		return len(ev.Purchases) > 0 && !slices.Contains(members, ev.Account) && !slices.ContainsFunc(ev.Purchases, func(id entitlement.PurchaseID) bool {
			at, isLost := lost[id]
			return !isLost || theirs(ev.Stamp, at)
		})
	}
	found := map[uint64][]byte{}
	for _, prefix := range prefixes {
		cursor := r.bucket(bucketSubjects).Cursor()
		n := 0
		for k, ref := cursor.Seek(binary.BigEndian.AppendUint64(bytes.Clone(prefix), after+1)); k != nil && n < limit && bytes.HasPrefix(k, prefix); k, ref = cursor.Next() {
			if len(lost) > 0 {
				ev, err := r.eventAt(ref)
				if err != nil {
					return nil, err
				}
				if ofAnother(&ev) {
					continue
				}
			}
			found[binary.BigEndian.Uint64(k[len(prefix):])] = ref
			n++
		}
	}
	seqs := make([]uint64, 0, len(found))
	for seq := range found {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	var events []StoredEvent
	for _, seq := range seqs[:min(limit, len(seqs))] {
		ev, err := r.eventAt(found[seq])
		if err != nil {
			return nil, err
		}
		events = append(events, ev)
	}
	return events, nil
}

// eventAt follows a reference.
func (r *Reader) eventAt(ref []byte) (StoredEvent, error) {
	if len(ref) < 3 {
		return StoredEvent{}, fmt.Errorf("event reference: %w", replication.ErrCorrupt)
	}
	bucket, key := bucketEvents, ref[1:]
	env, okEnv := byteEnv(key[0])
	provider, rest, okProvider := bytes.Cut(key[1:], []byte{0})
	id := rest
	if ref[0] == refConflict {
		bucket = bucketConflicts
		if len(rest) < 2+32 {
			return StoredEvent{}, fmt.Errorf("event reference: %w", replication.ErrCorrupt)
		}
		id = rest[2 : len(rest)-32]
	}
	var row eventRow
	ok, err := r.decode(bucket, key, &row)
	if err == nil && (!ok || !okEnv || !okProvider) {
		err = fmt.Errorf("event reference to nothing: %w", replication.ErrCorrupt)
	}
	return storedEvent(env, entitlement.Provider(provider), string(id), &row), err
}

// EventContent returns the event as it was recorded, Raw included, from the journal; nil for what the API did.
// Errors: ErrNoSegment while a restored node has not fetched that part of the journal yet; replication.ErrCorrupt.
func (s *Store) EventContent(ev StoredEvent) (*entitlement.Event, error) {
	entry, err := s.fsm.journal.read(ev.at)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("event %s/%s: %w", ev.Provider, ev.ID, ErrNoSegment)
	}
	if err != nil {
		return nil, fmt.Errorf("event %s/%s: %w: %w", ev.Provider, ev.ID, replication.ErrCorrupt, err)
	}
	d := decodeEntry(entry)
	if d.err != nil {
		return nil, fmt.Errorf("event %s/%s: %w: %w", ev.Provider, ev.ID, replication.ErrCorrupt, d.err)
	}
	if d.event == nil {
		return nil, nil
	}
	return &d.event.Event, nil
}
