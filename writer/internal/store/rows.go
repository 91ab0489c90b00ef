package store

import (
	"slices"

	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// The buckets of the state file. DESIGN.md has them as a table. Keys start with one byte for the environment where they have one.
var (
	bucketMeta        = []byte("meta")              // stateKey -> state
	bucketRecords     = []byte("records")           // replication.AppendDBKey -> replication.Record.Stored
	bucketChanges     = []byte("changes")           // revision (8) -> stamp (8) | chain (32) | state hash (32) | change
	bucketPurchases   = []byte("purchases")         // env | purchase id -> purchaseRow
	bucketLinks       = []byte("links")             // env | link -> purchase id; a purchase's own id has none
	bucketIdentities  = []byte("identities")        // env | length (2) | identity | purchase id -> purchase id
	bucketAliases     = []byte("aliases")           // env | kind | 0 | value -> account id
	bucketAccounts    = []byte("accounts")          // env | account id -> accountRow
	bucketEvents      = []byte("events")            // env | provider | 0 | id -> eventRow
	bucketConflicts   = []byte("conflicts")         // env | provider | 0 | length (2) | id | digest (32) -> eventRow
	bucketEventOrder  = []byte("event_order")       // env | seq (8) -> reference to an event
	bucketSubjects    = []byte("subjects")          // env | 'a' or 'p' | length (2) | account or purchase id | seq (8) -> reference to an event
	bucketAPIKeys     = []byte("api_keys")          // SHA-256 of the key -> APIKey
	bucketIdempotency = []byte("idempotency")       // scope (32) -> idempotencyRow
	bucketIdemOrder   = []byte("idempotency_order") // stamp (8) | scope (32) -> nothing
	bucketUnclaimed   = []byte("unclaimed")         // env | purchase id -> stamp (8) since when | stamp (8) until when it gives access, if it ends
	bucketPulls       = []byte("pulls")             // env | purchase id -> pullRow
	bucketSegments    = []byte("segments")          // number (8) -> SHA-256 (32) | size (8)
	bucketMembers     = []byte("members")           // node id -> memberRow

	// Since rulesAccounts.
	bucketParts        = []byte("parts")         // env | account id -> what the account itself has, an entitlement.Account: for those in a merge, whose record is a union
	bucketMerges       = []byte("merges")        // env | account that was merged -> mergeRow
	bucketPersons      = []byte("persons")       // env | length (2) | a store's name of a person | purchase id -> 1 where the purchase had a trial, else 0
	bucketNamed        = []byte("named")         // env | length (2) | alias | purchase id -> 't' where the purchase names an account, else 'n' | purchase id: what its newest statements call its buyer
	bucketCards        = []byte("cards")         // env | a customer of Stripe -> indexes (32 each) of the cards that they were seen with, sorted
	bucketIntents      = []byte("intents")       // env | intent id -> intentRow
	bucketLeases       = []byte("leases")        // env | length (2) | account | what is leased -> intent id
	bucketDue          = []byte("due")           // stamp (8) | env | intent id -> nothing: when the intent's row goes
	bucketSpends       = []byte("spends")        // env | length (2) | account | consumption id -> spendRow, for ever
	bucketContacts     = []byte("contacts")      // env | account id -> contactRow
	bucketContactIndex = []byte("contact_index") // env | index (32) | account id -> account id: who has the address now
	bucketLinkTokens   = []byte("link_tokens")   // env | SHA-256 of the token (32) -> linkRow
	bucketLinksDue     = []byte("links_due")     // stamp (8) | key of link_tokens -> nothing: when the row goes
	bucketLinksMailed  = []byte("links_mailed")  // env | length (2) | account or purchase id | SHA-256 of the token (32) -> nothing: a link whose address is kept
	bucketSuggestions  = []byte("suggestions")   // env | index (32) -> stamp (8) since when several accounts have the address
	bucketDismissed    = []byte("dismissed")     // env | length (2) | account | index (32) | account or purchase id -> that id: the two are not suggested for the address again

	bucketCodes     = []byte("codes")      // env | SHA-256 of the code (32) -> codeRow
	bucketCodeIDs   = []byte("code_ids")   // env | code id -> SHA-256 of the code (32)
	bucketCodesDue  = []byte("codes_due")  // stamp (8) | key of codes -> nothing: when the row goes
	bucketCodesOwed = []byte("codes_owed") // env | purchase id -> stamp (8) since when a code is to be sent for it
	bucketDevices   = []byte("devices")    // env | account id -> deviceRow

	bucketGrantsOwed = []byte("grants_owed") // env | account id -> which change (8) of its grants is to be passed on to aggregators

	bucketErased      = []byte("erased")       // env | account id -> stamp (8): it is no more
	bucketErasedNames = []byte("erased_names") // env | SHA-256 of an alias (32) -> erased account id: what was bought under the name is not unclaimed

	bucketPersonal = []byte("personal") // env | length (2) | account | name -> sealed text. No hash covers it: see personal.go

	bucketMergedIn = []byte("merged_in") // env | length (2) | surviving account | merged account -> merged account
)

// hashed are the buckets that the full hash covers: what writers keep beyond records, the change log (its chain covers it) and meta.
var hashed = [][]byte{bucketPurchases, bucketLinks, bucketIdentities, bucketAliases, bucketAccounts, bucketEvents, bucketConflicts,
	bucketEventOrder, bucketSubjects, bucketAPIKeys, bucketIdempotency, bucketIdemOrder, bucketUnclaimed, bucketPulls, bucketSegments, bucketMembers,
	bucketParts, bucketMerges, bucketMergedIn, bucketPersons, bucketNamed, bucketCards, bucketIntents, bucketLeases, bucketDue, bucketSpends,
	bucketContacts, bucketContactIndex, bucketSuggestions, bucketDismissed, bucketLinkTokens, bucketLinksDue, bucketLinksMailed,
	bucketCodes, bucketCodeIDs, bucketCodesDue, bucketCodesOwed, bucketDevices, bucketErased, bucketErasedNames,
	bucketGrantsOwed}

var buckets = append([][]byte{bucketMeta, bucketRecords, bucketChanges, bucketPersonal}, hashed...)

var stateKey = []byte("state")

// state is the one row of meta: what the state machine is at, written in the same transaction as everything that it says.
type state struct {
	Applied     uint64           `cbor:"1,keyasint"` // index of the last log entry in here; Raft's own includes entries that hold no command
	AppliedTerm uint64           `cbor:"2,keyasint"`
	Cluster     string           `cbor:"3,keyasint"`
	Epoch       uint64           `cbor:"4,keyasint"` // 0: not founded yet
	N           uint64           `cbor:"5,keyasint"` // revision within the epoch
	Chain       replication.Hash `cbor:"6,keyasint"`
	StateHash   replication.Hash `cbor:"7,keyasint"`
	FullHash    replication.Hash `cbor:"8,keyasint"`
	Stamp       int64            `cbor:"9,keyasint"` // of the last command, Unix seconds; never goes back
	Rules       uint32           `cbor:"10,keyasint"`
	Floor       uint64           `cbor:"11,keyasint"` // changes up to here are gone
	ChangeBytes int64            `cbor:"12,keyasint"` // of the change log's keys and values
	EventSeq    uint64           `cbor:"13,keyasint"` // of the last event

	// The journal: the unsealed segment, its length, and the SHA-256 of it so far.
	Segment       uint64           `cbor:"14,keyasint"`
	SegmentOffset int64            `cbor:"15,keyasint"`
	SegmentHash   replication.Hash `cbor:"16,keyasint"`

	// Base names the restore from which this history began: a hash, in hex, of the state that was restored. Empty: the cluster's founding. Held
	// means that the epoch was not raised since, so that nothing may be answered.
	Base string `cbor:"17,keyasint,omitempty"`
	Held bool   `cbor:"18,keyasint,omitempty"`
}

// purchaseRow is what is known of one purchase. It is a function of the set of messages and API calls, not of their order.
type purchaseRow struct {
	Evidence entitlement.Evidence  `cbor:"1,keyasint"`
	Owner    entitlement.AccountID `cbor:"2,keyasint,omitempty"` // as resolved; empty is unclaimed
	Claim    *claimRow             `cbor:"3,keyasint,omitempty"` // what the API said about the owner; it wins over the evidence, but see Shown
	// Shares are the accounts beside the owner that the provider lets use it, as resolved, sorted.
	Shares []entitlement.AccountID `cbor:"4,keyasint,omitempty"`
	// Lost are the accounts that it was restored away from last, sorted, without the present owner.
	Lost []lostRow `cbor:"5,keyasint,omitempty"`
	// Codes are what its packages are delivered by, sorted by id.
	Codes []purchaseCode `cbor:"6,keyasint,omitempty"`
	// Buyers are the indexes of the addresses with which it was paid, while nobody owns it: sorted, in hexadecimal digits.
	Buyers []string `cbor:"7,keyasint,omitempty"`
	// Outnamed are the accounts that had it until a provider named another as the buyer, as resolved, sorted, without the present owner and those of Lost.
	Outnamed []lostRow `cbor:"8,keyasint,omitempty"`
}

// lostRow says when an account lost a purchase to another.
type lostRow struct {
	Account entitlement.AccountID `cbor:"1,keyasint"`
	Stamp   int64                 `cbor:"2,keyasint"`
}

// claimRow says that the API gave a purchase to an account. The newer one wins when purchases are merged, support's before a user's, and what was restored before what was
// only shown.
type claimRow struct {
	Account entitlement.AccountID `cbor:"1,keyasint"`
	Stamp   int64                 `cbor:"2,keyasint"`
	Support bool                  `cbor:"3,keyasint,omitempty"` // a user's restore does not change it
	// ForfeitedAt is when an account was erased that had the purchase before, Unix seconds: the credits of until then went with it. 0: none was.
	ForfeitedAt int64 `cbor:"4,keyasint,omitempty"`
	// Shown: by a receipt or a link, while nobody had it. A later purchase under the name of another account, and a move by an aggregator that alone tells of it, come before it.
	Shown bool `cbor:"5,keyasint,omitempty"`
}

// accountRow is what we keep of an account beyond its record.
type accountRow struct {
	CreatedAt  int64               `cbor:"1,keyasint,omitempty"`
	Attributes map[string]string   `cbor:"2,keyasint,omitempty"` // put before RulesPersonal
	Aliases    []entitlement.Alias `cbor:"3,keyasint,omitempty"` // sorted by kind, value; personal ones are hashed
	Reasons    map[string]string   `cbor:"4,keyasint,omitempty"` // grant id to why it was given, before RulesPersonal
	Anonymous  bool                `cbor:"5,keyasint,omitempty"` // a session made it; it is anonymous until it has an alias that identifies a person
	Sealed     []string            `cbor:"6,keyasint,omitempty"` // keys of the attributes whose texts are sealed, sorted
	Names      map[string]string   `cbor:"7,keyasint,omitempty"` // AliasText to what the hashed alias stands for, where it was put before RulesPersonal
}

// eventRow is one entry of the audit trail. The event's content is in the journal.
type eventRow struct {
	Digest        []byte                   `cbor:"1,keyasint,omitempty"`
	Type          string                   `cbor:"2,keyasint,omitempty"`
	Outcome       Outcome                  `cbor:"3,keyasint"`
	Stamp         int64                    `cbor:"4,keyasint"`
	CreatedAt     int64                    `cbor:"5,keyasint,omitempty"`
	Epoch         uint64                   `cbor:"6,keyasint"`
	N             uint64                   `cbor:"7,keyasint"`
	Purchases     []entitlement.PurchaseID `cbor:"8,keyasint,omitempty"`
	Account       entitlement.AccountID    `cbor:"9,keyasint,omitempty"`
	CorrelationID string                   `cbor:"10,keyasint,omitempty"`
	Seq           uint64                   `cbor:"11,keyasint"`
	Segment       uint64                   `cbor:"12,keyasint"`
	Offset        int64                    `cbor:"13,keyasint"`
	Caller        string                   `cbor:"14,keyasint,omitempty"` // Command.Caller
	Refs          *Refs                    `cbor:"15,keyasint,omitempty"`
}

// idempotencyRow holds the first result of a request.
type idempotencyRow struct {
	Body   []byte `cbor:"1,keyasint"`
	Result []byte `cbor:"2,keyasint"`
	Stamp  int64  `cbor:"3,keyasint"`
	Answer []byte `cbor:"4,keyasint,omitempty"` // of KeepAnswer
}

// pullRow says why a provider must be asked about a purchase.
type pullRow struct {
	Since    int64 `cbor:"1,keyasint"`
	Doubt    bool  `cbor:"2,keyasint,omitempty"` // the evidence is tied or partial
	Conflict bool  `cbor:"3,keyasint,omitempty"` // two messages under one id

	ConflictAt int64  `cbor:"4,keyasint,omitempty"` // stamp of the last of them
	Asks       []byte `cbor:"5,keyasint,omitempty"` // identifies what there is to ask for: see asksOf
	Echoes     string `cbor:"6,keyasint,omitempty"` // since rulesAccounts: see Pull
}

// maxKeyText is how much of an id from outside stands in a key; a longer one is replaced by its SHA-256. bbolt takes 32 KiB.
const maxKeyText = 512

// keyHashPrefix begins a key that is a hash.
const keyHashPrefix = "sha256:"

func keyText(s string) string {
	if len(s) <= maxKeyText {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return keyHashPrefix + hex.EncodeToString(sum[:])
}

func envKey(env entitlement.Environment, text string) []byte {
	text = keyText(text)
	return append(append(make([]byte, 0, 1+len(text)), envByte(env)), text...)
}

func aliasKey(env entitlement.Environment, a entitlement.Alias) []byte {
	return envKey(env, string(a.Kind)+"\x00"+a.Value)
}

func eventKey(env entitlement.Environment, p entitlement.Provider, id string) []byte {
	id = keyText(id)
	k := append(make([]byte, 0, 2+len(p)+len(id)), envByte(env))
	k = append(append(k, p...), 0)
	return append(k, id...)
}

func conflictKey(env entitlement.Environment, p entitlement.Provider, id string, digest []byte) []byte {
	return append(conflictPrefix(env, p, id), digest...)
}

func conflictPrefix(env entitlement.Environment, p entitlement.Provider, id string) []byte {
	k := append(make([]byte, 0, 4+len(p)+len(id)+sha256.Size), envByte(env))
	return appendKeyText(append(append(k, p...), 0), id)
}

// appendKeyText appends s after its length, so that no text from outside can reach into what follows it.
func appendKeyText(k []byte, s string) []byte {
	s = keyText(s)
	return append(binary.BigEndian.AppendUint16(k, uint16(len(s))), s...)
}

func orderKey(env entitlement.Environment, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{envByte(env)}, seq)
}

// The subjects of the audit trail.
const (
	subjectAccount  = 'a'
	subjectPurchase = 'p'
)

func subjectPrefix(env entitlement.Environment, subject byte, id string) []byte {
	return appendKeyText(append(make([]byte, 0, 12+len(id)), envByte(env), subject), id)
}

func subjectKey(env entitlement.Environment, subject byte, id string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(subjectPrefix(env, subject, id), seq)
}

// A reference to an event is its key after a byte that names the bucket.
const (
	refEvent    = 'e'
	refConflict = 'c'
)

func identityPrefix(env entitlement.Environment, identity string) []byte {
	return appendKeyText(append(make([]byte, 0, 3+2*len(identity)), envByte(env)), identity)
}

func identityKey(env entitlement.Environment, identity string, id entitlement.PurchaseID) []byte {
	return append(identityPrefix(env, identity), keyText(string(id))...)
}

// waitsUnder lists the names of whose coming the purchase must hear, because they decide about its owner: see command.ownerOf. One that has a
// claim hears of none, unless it was only shown. One whose evidence names an account waits for that account until it exists, and no alias counts. Else an alias may
// decide at any time. It waits for every name under which it was bought, whatever the policy says.
func (row *purchaseRow) waitsUnder(rules uint32) []string {
	var names []string
	if row.Evidence.IsSandbox() {
		names = append(names, testerIdentities(row.seenBy(rules))...)
	}
	for _, a := range row.Evidence.Shares() {
		names = append(names, aliasIdentity(hashedAlias(rules, a)))
	}
	for _, index := range row.Buyers {
		names = append(names, buyerIdentity(index))
	}
	if row.Claim != nil && !row.Claim.Shown {
		return names
	}
	id := row.Evidence.Identity()
	switch {
	case id.Account == "":
		for _, a := range id.Aliases {
			names = append(names, aliasIdentity(hashedAlias(rules, a)))
		}
	case row.Owner == "" || row.Claim != nil:
		names = append(names, accountIdentity(id.Account))
	}
	bought := row.Evidence.Names()
	for _, n := range bought { // under a policy by which one of them has it
		switch {
		case n.Account == "":
			for _, a := range n.Aliases {
				names = append(names, aliasIdentity(hashedAlias(rules, a)))
			}
		case len(bought) > 1 || n.Account != id.Account:
			names = append(names, accountIdentity(n.Account))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func accountIdentity(id entitlement.AccountID) string { return "account\x00" + string(id) }

// lostBy returns since when none of the accounts has the purchase or a share of it any more, Unix seconds, and false where one does, or none ever had it.
func (row *purchaseRow) lostBy(accounts []entitlement.AccountID) (at int64, lost bool) {
	if slices.ContainsFunc(accounts, func(id entitlement.AccountID) bool { return id == row.Owner || slices.Contains(row.Shares, id) }) {
		return 0, false
	}
	for _, l := range slices.Concat(row.Lost, row.Outnamed) {
		if slices.Contains(accounts, l.Account) {
			at, lost = max(at, l.Stamp), true
		}
	}
	return at, lost
}

// seenBy lists who has a side of the purchase to see. Rules before rulesAccounts know of the owner alone.
func (row *purchaseRow) seenBy(rules uint32) []entitlement.AccountID {
	var accounts []entitlement.AccountID
	if row.Owner != "" {
		accounts = append(accounts, row.Owner)
	}
	if rules < rulesAccounts {
		return accounts
	}
	accounts = append(accounts, row.Shares...)
	for _, lost := range slices.Concat(row.Lost, row.Outnamed) {
		accounts = append(accounts, lost.Account)
	}
	return accounts
}

// testerIdentity is under which a test purchase hears that who sees it becomes a tester.
func testerIdentity(id entitlement.AccountID) string { return "tester\x00" + string(id) }

func testerIdentities(accounts []entitlement.AccountID) (names []string) {
	for _, id := range accounts {
		names = append(names, testerIdentity(id))
	}
	return names
}

// buyerIdentity is under which an unclaimed purchase is found by its buyer's address. It decides about no owner.
func buyerIdentity(index string) string { return "buyer\x00" + index }

func aliasIdentity(a entitlement.Alias) string {
	return "alias\x00" + string(a.Kind) + "\x00" + a.Value
}
