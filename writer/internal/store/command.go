package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// CommandType says what a command does. Numbers are never reused: logs and journals hold them for ever.
type CommandType uint8

// The command types and the bodies that belong to them.
const (
	TypeInit         CommandType = 1  // Init: the first command of a cluster
	TypeRecordEvent  CommandType = 2  // RecordEvent
	TypeCreate       CommandType = 3  // CreateAccount
	TypeAddAlias     CommandType = 4  // AddAlias
	TypePatch        CommandType = 5  // PatchAccount
	TypeEndSessions  CommandType = 6  // EndSessions
	TypePutGrant     CommandType = 7  // PutGrant
	TypeDeleteGrant  CommandType = 8  // DeleteGrant
	TypePutCatalog   CommandType = 9  // PutCatalog
	TypePutKeys      CommandType = 10 // PutSessionKeys
	TypeAddAPIKey    CommandType = 11 // AddAPIKey
	TypeRevokeAPIKey CommandType = 12 // RevokeAPIKey
	TypeTouchAPIKeys CommandType = 13 // TouchAPIKeys
	TypeTrim         CommandType = 14 // Trim
	TypeRaiseRules   CommandType = 15 // RaiseRules
	TypeRaiseEpoch   CommandType = 16 // RaiseEpoch
	TypePutPolicy    CommandType = 17 // PutPolicy
	TypeStartSession CommandType = 18 // StartSession: the audit trail and idempotency of a signed session
	TypePutMember    CommandType = 19 // PutMember
	TypeRemoveMember CommandType = 20 // RemoveMember
	TypeClaim        CommandType = 21 // ClaimPurchase
	TypeKeepAnswer   CommandType = 22 // KeepAnswer

	// Since rulesAccounts.
	TypeMerge        CommandType = 23 // MergeAccounts
	TypeUndoMerge    CommandType = 24 // UndoMerge
	TypePutIntent    CommandType = 25 // PutIntent
	TypeEndIntent    CommandType = 26 // EndIntent
	TypeSubmitIntent CommandType = 27 // SubmitIntent
	TypeRestore      CommandType = 28 // RestorePurchase
	TypePutLink      CommandType = 29 // PutLink
	TypeRedeemLink   CommandType = 30 // RedeemLink
	TypePutCode      CommandType = 31 // PutCode
	TypeRedeemCode   CommandType = 32 // RedeemCode
	TypeConsume      CommandType = 33 // Consume
	TypePutContact   CommandType = 34 // PutContact
	TypeErase        CommandType = 35 // EraseAccount
	TypeAwait        CommandType = 36 // AwaitPurchase
	TypeLogin        CommandType = 37 // Login
	TypePutDevice    CommandType = 38 // PutDevice

	TypeExport         CommandType = 39 // ExportAccount
	TypePutRevocations CommandType = 40 // PutRevocations
	TypeRevokeCode     CommandType = 43 // RevokeCode
	TypeNoteGranted    CommandType = 44 // NoteGranted
	TypeDismiss        CommandType = 45 // DismissSuggestion
)

// Init founds a cluster: epoch 1.
type Init struct {
	Cluster string `cbor:"1,keyasint"`
	Rules   uint32 `cbor:"2,keyasint"`
}

// RecordEvent stores a provider's message and applies what it proves. URLEnvironment is that of the webhook's address, which is the
// command's environment: an event that names another is stored and not applied.
type RecordEvent struct {
	Event entitlement.Event `cbor:"1,keyasint"`
	// Pulled: with this event the provider has said of every object of the purchase what it is. What two messages under one id left open before
	// the event's CreatedAt is settled.
	Pulled bool `cbor:"2,keyasint,omitempty"`
	// Buyer is the index of the e-mail address that the message has, in hexadecimal digits, and BuyerOf the store id of what it says was bought. They are no part of
	// the event: its sameness does not depend on the key that makes indexes. Both are there since rules 3.
	Buyer   string           `cbor:"3,keyasint,omitempty"`
	BuyerOf entitlement.Link `cbor:"4,keyasint,omitempty"`
	// Card is the index of the fingerprint of a card that the message has, in hexadecimal digits, and CardOf the customer of Stripe whose card it is. They are there
	// since rules 3, and no part of the event for the same reason.
	Card   string `cbor:"5,keyasint,omitempty"`
	CardOf string `cbor:"6,keyasint,omitempty"`
}

// CreateAccount makes an account, or finds the one that owns all of Aliases.
type CreateAccount struct {
	ID          entitlement.AccountID `cbor:"1,keyasint"` // made by the proposing node; used if a new one is needed
	Aliases     []entitlement.Alias   `cbor:"2,keyasint,omitempty"`
	Attributes  map[string]string     `cbor:"3,keyasint,omitempty"` // before rulesAccounts
	Idempotency *Idempotency          `cbor:"4,keyasint,omitempty"`
	Changes     *AttributeChanges     `cbor:"5,keyasint,omitempty"`
	Personal    []Sealed              `cbor:"-"`
}

// AddAlias gives an account another name.
type AddAlias struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	Alias       entitlement.Alias     `cbor:"2,keyasint"`
	Idempotency *Idempotency          `cbor:"3,keyasint,omitempty"`
	Personal    []Sealed              `cbor:"-"`
}

// PatchAccount changes attributes; an empty string deletes one. Tester is nil for no change.
type PatchAccount struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	Attributes  map[string]string     `cbor:"2,keyasint,omitempty"` // before rulesAccounts
	Tester      *bool                 `cbor:"3,keyasint,omitempty"`
	Idempotency *Idempotency          `cbor:"4,keyasint,omitempty"`
	Changes     *AttributeChanges     `cbor:"5,keyasint,omitempty"`
	Personal    []Sealed              `cbor:"-"`
}

// EndSessions ends every session token that was issued before the command's stamp + 1 s.
type EndSessions struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	Idempotency *Idempotency          `cbor:"2,keyasint,omitempty"`
}

// StartSession notes that a session was issued; its claims are what the command's result needs to be signed again.
type StartSession struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	Device      string                `cbor:"2,keyasint"`
	TTLSeconds  int64                 `cbor:"3,keyasint"`
	Idempotency *Idempotency          `cbor:"4,keyasint,omitempty"`
}

// PutGrant gives access without a payment.
type PutGrant struct {
	Account         entitlement.AccountID `cbor:"1,keyasint"`
	ID              string                `cbor:"2,keyasint"`
	Entitlement     string                `cbor:"3,keyasint"`
	DurationSeconds int64                 `cbor:"4,keyasint,omitempty"` // from the stamp; 0: EndsAt counts
	EndsAt          int64                 `cbor:"5,keyasint,omitempty"` // 0: never
	Reason          string                `cbor:"6,keyasint,omitempty"` // before rulesAccounts
	Idempotency     *Idempotency          `cbor:"7,keyasint,omitempty"`
	Personal        []Sealed              `cbor:"-"`
}

// DeleteGrant takes a grant back.
type DeleteGrant struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	ID          string                `cbor:"2,keyasint"`
	Idempotency *Idempotency          `cbor:"3,keyasint,omitempty"`
}

// PutCatalog replaces what it lists; products left out are marked retired.
type PutCatalog struct {
	Catalog     entitlement.Catalog `cbor:"1,keyasint"`
	Idempotency *Idempotency        `cbor:"2,keyasint,omitempty"`
}

// PutPolicy replaces an environment's policy; every purchase of it is folded again.
type PutPolicy struct {
	Policy      entitlement.Policy `cbor:"1,keyasint"`
	Idempotency *Idempotency       `cbor:"2,keyasint,omitempty"`
}

// PutSessionKeys states the public keys that session tokens of the environment are checked with, as JWKs in JSON.
type PutSessionKeys struct {
	JWKs [][]byte `cbor:"1,keyasint"`
}

// PutRevocations puts a signed list of revoked keys in the place of the last one of its kind (a root's, or an issuing key's) in one environment. What the
// list says was judged by who proposes it.
type PutRevocations struct {
	List replication.RevocationList `cbor:"1,keyasint"`
}

// AddAPIKey adds a key by its SHA-256. One with the same hash is left as it is, revoked ones stay revoked.
type AddAPIKey struct {
	Hash  []byte `cbor:"1,keyasint"`
	Name  string `cbor:"2,keyasint"`
	Scope string `cbor:"3,keyasint"` // sk, rk, pk
}

// RevokeAPIKey ends a key by its name.
type RevokeAPIKey struct {
	Name string `cbor:"1,keyasint"`
}

// TouchAPIKeys notes when keys (by hash, in hex) were last used, Unix seconds.
type TouchAPIKeys struct {
	LastUsed map[string]int64 `cbor:"1,keyasint"`
}

// Trim drops changes up to and including revision Floor from the change log.
type Trim struct {
	Floor uint64 `cbor:"1,keyasint"`
}

// RaiseRules switches to a newer version of the rules, once every voter knows it.
type RaiseRules struct {
	Rules uint32 `cbor:"1,keyasint"`
}

// RaiseEpoch starts a new epoch after a restore: max(old + 1, stamp). It ends what holds a restored state back.
type RaiseEpoch struct {
	Cause string `cbor:"1,keyasint,omitempty"`
}

// PutMember says how a node is reached. It is the node's own word, or what the operator said when it joined.
type PutMember struct {
	ID       string `cbor:"1,keyasint"`
	Raft     string `cbor:"2,keyasint"`           // host:port
	Internal string `cbor:"3,keyasint,omitempty"` // base URL
}

// RemoveMember ends a node's membership; its id never comes back.
type RemoveMember struct {
	ID string `cbor:"1,keyasint"`
}

// ClaimPurchase gives a purchase that has no owner to an account, which has shown that it is theirs. It takes from nobody.
type ClaimPurchase struct {
	Account  entitlement.AccountID  `cbor:"1,keyasint"`
	Purchase entitlement.PurchaseID `cbor:"2,keyasint"` // any id that it ever had
}

// RestorePurchase gives a purchase to an account. A user who has proved it takes it from another account only as the policy's Transfer says; support
// takes one that is nobody's, or one from the account that it names, and what it says stays.
type RestorePurchase struct {
	Account     entitlement.AccountID  `cbor:"1,keyasint"`
	Purchase    entitlement.PurchaseID `cbor:"2,keyasint"` // any id that it ever had
	Support     bool                   `cbor:"3,keyasint,omitempty"`
	Idempotency *Idempotency           `cbor:"4,keyasint,omitempty"`
	From        entitlement.AccountID  `cbor:"5,keyasint,omitempty"` // from whom support takes it, under any id that is merged; empty: from nobody
}

// KeepAnswer remembers what a request was answered with whose work was several commands, or none: its repeat under the same Idempotency-Key gets the
// same answer.
type KeepAnswer struct {
	Account entitlement.AccountID `cbor:"1,keyasint"` // that it is about
	// Answer is its body. Empty: the request has no answer that stays, and its repeat is worked on anew; the key is bound to what it asked for.
	Answer      []byte       `cbor:"2,keyasint,omitempty"`
	Idempotency *Idempotency `cbor:"3,keyasint"`
}

// MergeAccounts makes From and Into one for every reader. Nothing moves: see merge.go. Both must exist, and From must not be merged already.
type MergeAccounts struct {
	ID          string                `cbor:"1,keyasint"` // "merge_" and a ULID
	From        entitlement.AccountID `cbor:"2,keyasint"`
	Into        entitlement.AccountID `cbor:"3,keyasint"`
	Idempotency *Idempotency          `cbor:"4,keyasint,omitempty"`
}

// UndoMerge takes a merge back that is at most 30 days old. Account is one of those that it made one.
type UndoMerge struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	ID          string                `cbor:"2,keyasint"`
	Idempotency *Idempotency          `cbor:"3,keyasint,omitempty"`
}

// Login gives an app a session: see login.go. From is the one that it has, nil for none. The account is that of To, another session, or that of Alias, an
// oidc_subject that was proved; without both it is a new one, which is anonymous.
type Login struct {
	New         entitlement.AccountID `cbor:"1,keyasint"` // made by the proposing node; used if an account must be made
	From        *Session              `cbor:"2,keyasint,omitempty"`
	To          *Session              `cbor:"3,keyasint,omitempty"`
	Alias       *entitlement.Alias    `cbor:"4,keyasint,omitempty"`
	Merge       string                `cbor:"5,keyasint,omitempty"` // id of the merge, if the account of From is merged; empty: it is not
	Device      string                `cbor:"6,keyasint,omitempty"`
	TTLSeconds  int64                 `cbor:"7,keyasint,omitempty"`
	Idempotency *Idempotency          `cbor:"8,keyasint,omitempty"`
	Personal    []Sealed              `cbor:"-"`
}

// Session is a session token that the receiving node has verified, but for whether it was ended.
type Session struct {
	Account  entitlement.AccountID `cbor:"1,keyasint"`
	IssuedAt int64                 `cbor:"2,keyasint"` // Unix seconds
	Device   string                `cbor:"3,keyasint,omitempty"`
	// SignIn: a token of an identity provider stands for it, which nobody but the provider can end.
	SignIn bool `cbor:"4,keyasint,omitempty"`
}

// Idempotency makes the repeat of a request harmless for 24 h: the same Scope (a hash of environment, caller, method, path and
// Idempotency-Key) gives the first result again; another Body hash under it is refused.
type Idempotency struct {
	Scope []byte `cbor:"1,keyasint"`
	Body  []byte `cbor:"2,keyasint"`
}

// Command is one entry of the Raft log, and of the journal.
type Command struct {
	Type          CommandType
	Env           entitlement.Environment // empty for what concerns the whole cluster
	Stamp         int64                   // Unix seconds; set by the leader, never goes back
	CorrelationID string
	Caller        string // whose credential asked for it, for the audit trail; empty: a writer by itself. See CallerOf
	Body          []byte // encoded body of Type

	// Personal is what the command carries of persons, each text sealed: an encoded []Sealed, nil for nothing. The log has it and the journal does not: there
	// PersonalHash stands in its place, which is the SHA-256 of it, nil for nothing.
	Personal     []byte
	PersonalHash []byte
}

// Limits of a command. An entry must fit Raft's transport and the journal's buffers several times over.
const (
	MaxEntryBytes = 1_310_720 // 1.25 MiB: a body of 1 MiB and what surrounds it
	// MaxKeptAnswerBytes bounds the answer of a KeepAnswer, which every node keeps for 24 h: 50 receipts and an account of dozens of purchases.
	MaxKeptAnswerBytes  = 64 << 10
	maxCorrelationBytes = 64
	maxCallerBytes      = 255
	commandVersion      = 1
	compressFrom        = 512 // smaller bodies gain less than the frame costs
	flagZstd            = 1
	flagPersonal        = 2 // Personal, after its length (4 bytes), stands before the body
	flagPersonalHash    = 4 // PersonalHash stands there
	flagCaller          = 8 // Caller, after its length (1 byte), stands behind the correlation id; since rulesAccounts
	stampOffset         = 4
	flagsOffset         = 3
	commandHeader       = 13 // up to and including the length of the correlation id
)

// ErrCommand means that bytes are not a command that this version knows.
var ErrCommand = errors.New("unknown command")

// Bodies are compressed without entropy coding. Stripe's messages of 1.1 KB become 0.8 KB instead of 0.67 KB, and each is written once and read
// by every node: that costs 4 + 3 x 1.6 µs of processor time instead of 9.5 + 3 x 5.6 µs. Whoever keeps sealed segments elsewhere gains far more by
// compressing them whole.
var (
	zstdEncoder = mustZstd(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithNoEntropyCompression(true),
		zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(false)))
	zstdDecoder = mustZstd(zstd.NewReader(nil, zstd.WithDecoderMaxMemory(4*MaxEntryBytes), zstd.WithDecoderConcurrency(0)))
)

func mustZstd[T any](v T, err error) T {
	if err != nil {
		panic(err) // constant options
	}
	return v
}

// NewCommand encodes body, which must be a pointer to or value of the type that belongs to t, and what it carries of persons.
func NewCommand(t CommandType, env entitlement.Environment, correlationID string, body any) Command {
	c := Command{Type: t, Env: env, CorrelationID: correlationID, Body: entitlement.Encode(body)}
	if carrier, ok := body.(interface{ carried() []Sealed }); ok {
		if texts := carrier.carried(); len(texts) > 0 {
			c.Personal = entitlement.Encode(texts)
			sum := sha256.Sum256(c.Personal)
			c.PersonalHash = sum[:]
		}
	}
	return c
}

// Encode returns the command's bytes: version, type, environment, flags (1 byte each), stamp (8 bytes), correlation id after
// its length (1 byte), the caller, what it carries of persons, body, which is compressed with zstd where that is shorter. The receiving node encodes once; the leader
// sets the stamp in place with Stamp.
func (c Command) Encode() []byte {
	id := c.CorrelationID
	if len(id) > maxCorrelationBytes {
		id = id[:maxCorrelationBytes]
	}
	b := make([]byte, 0, commandHeader+len(id)+1+len(c.Caller)+4+len(c.Personal)+len(c.Body))
	b = append(b, commandVersion, byte(c.Type), envByte(c.Env), 0)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Stamp))
	b = append(b, byte(len(id)))
	b = append(b, id...)
	if caller := c.Caller[:min(len(c.Caller), maxCallerBytes)]; caller != "" {
		b[flagsOffset] |= flagCaller
		b = append(append(b, byte(len(caller))), caller...)
	}
	switch {
	case len(c.Personal) > 0:
		b[flagsOffset] |= flagPersonal
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(c.Personal))), c.Personal...)
	case len(c.PersonalHash) == sha256.Size:
		b[flagsOffset] |= flagPersonalHash
		b = append(b, c.PersonalHash...)
	}
	if len(c.Body) >= compressFrom {
		at := len(b)
		if b = zstdEncoder.EncodeAll(c.Body, b); len(b)-at < len(c.Body) {
			b[flagsOffset] |= flagZstd
			return b
		}
		b = b[:at]
	}
	return append(b, c.Body...)
}

// SetStamp writes the leader's time into encoded, which Encode made.
func SetStamp(encoded []byte, stamp int64) {
	binary.BigEndian.PutUint64(encoded[stampOffset:], uint64(stamp))
}

// DecodeCommand reads what Encode wrote. Error: ErrCommand.
func DecodeCommand(b []byte) (Command, error) {
	if len(b) < commandHeader || b[0] != commandVersion || len(b) < commandHeader+int(b[12]) {
		return Command{}, ErrCommand
	}
	env, ok := byteEnv(b[2])
	if !ok {
		return Command{}, fmt.Errorf("environment %d: %w", b[2], ErrCommand)
	}
	c := Command{Type: CommandType(b[1]), Env: env, Stamp: int64(binary.BigEndian.Uint64(b[stampOffset:])), CorrelationID: string(b[commandHeader : commandHeader+int(b[12])])}
	head, err := headLength(b)
	if err != nil {
		return Command{}, err
	}
	if at := commandHeader + len(c.CorrelationID); head > at {
		c.Caller = string(b[at+1 : head])
	}
	if c.Personal, c.PersonalHash, c.Body, err = cutPersonal(b, head); err != nil {
		return Command{}, err
	}
	switch b[flagsOffset] &^ (flagPersonal | flagPersonalHash | flagCaller) {
	case 0:
	case flagZstd:
		body, err := zstdDecoder.DecodeAll(c.Body, nil)
		if err != nil {
			return Command{}, fmt.Errorf("body: %w: %w", err, ErrCommand)
		}
		c.Body = body
	default:
		return Command{}, fmt.Errorf("flags %#x: %w", b[flagsOffset], ErrCommand)
	}
	return c, nil
}

// headLength returns how long what stands before the personal part and the body is: the header, the correlation id and the caller. The header must be
// whole. Error: ErrCommand.
func headLength(b []byte) (int, error) {
	n := commandHeader + int(b[12])
	if b[flagsOffset]&flagCaller == 0 {
		return n, nil
	}
	if len(b) <= n || len(b) < n+1+int(b[n]) {
		return 0, fmt.Errorf("caller: %w", ErrCommand)
	}
	return n + 1 + int(b[n]), nil
}

// cutPersonal returns what an encoded command carries of persons, the hash of that, and its body as it is encoded. head is its headLength. Error: ErrCommand.
func cutPersonal(b []byte, head int) (personal, hash, body []byte, err error) {
	rest := b[head:]
	switch b[flagsOffset] & (flagPersonal | flagPersonalHash) {
	case 0:
		return nil, nil, rest, nil
	case flagPersonal:
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			return nil, nil, nil, fmt.Errorf("personal part: %w", ErrCommand)
		}
		size := binary.BigEndian.Uint32(rest)
		personal, body = rest[4:4+size], rest[4+size:]
		sum := sha256.Sum256(personal)
		return personal, sum[:], body, nil
	case flagPersonalHash:
		if len(rest) < sha256.Size {
			return nil, nil, nil, fmt.Errorf("hash of the personal part: %w", ErrCommand)
		}
		return nil, rest[:sha256.Size], rest[sha256.Size:], nil
	}
	return nil, nil, nil, fmt.Errorf("flags %#x: %w", b[flagsOffset], ErrCommand)
}

// journaled returns an entry of the log as the journal has it: without what it carries of persons. The journal is kept for ever, and what was erased must
// not be in it.
func journaled(entry []byte) []byte {
	if len(entry) < commandHeader || len(entry) < commandHeader+int(entry[12]) || entry[flagsOffset]&flagPersonal == 0 {
		return entry
	}
	head, err := headLength(entry)
	if err != nil {
		return entry // no command: the process ends
	}
	_, hash, body, err := cutPersonal(entry, head)
	if err != nil {
		return entry
	}
	b := append(make([]byte, 0, head+len(hash)+len(body)), entry[:head]...)
	b[flagsOffset] = b[flagsOffset]&^flagPersonal | flagPersonalHash
	return append(append(b, hash...), body...)
}

// EnvironmentOf reads the environment of encoded, which Encode made, without decoding the rest; empty for what is no command.
func EnvironmentOf(encoded []byte) entitlement.Environment {
	if len(encoded) < commandHeader {
		return ""
	}
	env, _ := byteEnv(encoded[2])
	return env
}

func envByte(e entitlement.Environment) byte {
	switch e {
	case entitlement.Production:
		return 1
	case entitlement.Sandbox:
		return 2
	}
	return 0
}

func byteEnv(b byte) (entitlement.Environment, bool) {
	switch b {
	case 0:
		return "", true
	case 1:
		return entitlement.Production, true
	case 2:
		return entitlement.Sandbox, true
	}
	return "", false
}
