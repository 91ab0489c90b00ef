// Package writertest hands a writer's state machine and its commands to simulators and tests that stand outside of writer, where internal
// packages cannot be seen. It adds nothing to them. Start at OpenMachine.
package writertest

import (
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// What a state machine takes and gives; each is explained where it comes from.
type (
	Machine     = store.Machine
	Reader      = store.Reader
	Entry       = store.Entry
	Command     = store.Command
	CommandType = store.CommandType
	Result      = store.Result
	StoredEvent = store.StoredEvent

	RestoreConfig = store.RestoreConfig
	Voter         = store.Voter

	Init          = store.Init
	RecordEvent   = store.RecordEvent
	CreateAccount = store.CreateAccount
	AddAlias      = store.AddAlias
	PatchAccount  = store.PatchAccount
	EndSessions   = store.EndSessions
	PutGrant      = store.PutGrant
	DeleteGrant   = store.DeleteGrant
	PutCatalog    = store.PutCatalog
	PutPolicy     = store.PutPolicy
	Consume       = store.Consume
	ClaimPurchase = store.ClaimPurchase
	EraseAccount  = store.EraseAccount
	Trim          = store.Trim
	RaiseEpoch    = store.RaiseEpoch
	Idempotency   = store.Idempotency

	RestorePurchase = store.RestorePurchase
)

// What understands the providers' messages, and what asks them: writer.Config makes them.
type (
	Adapter = provider.Adapter
	Puller  = provider.Puller
	Request = provider.Request

	HistoryKeeper = provider.HistoryKeeper
)

// The command types that simulators use.
const (
	TypeInit        = store.TypeInit
	TypeRecordEvent = store.TypeRecordEvent
	TypeCreate      = store.TypeCreate
	TypeAddAlias    = store.TypeAddAlias
	TypePatch       = store.TypePatch
	TypeEndSessions = store.TypeEndSessions
	TypePutGrant    = store.TypePutGrant
	TypeDeleteGrant = store.TypeDeleteGrant
	TypePutCatalog  = store.TypePutCatalog
	TypePutPolicy   = store.TypePutPolicy
	TypeConsume     = store.TypeConsume
	TypeClaim       = store.TypeClaim
	TypeRestore     = store.TypeRestore
	TypeErase       = store.TypeErase
	TypeTrim        = store.TypeTrim
	TypeRaiseEpoch  = store.TypeRaiseEpoch
)

// OpenMachine starts a state machine in a directory; FoundMachine makes a closed one a node of a cluster.
var (
	OpenMachine  = store.OpenMachine
	FoundMachine = store.FoundMachine
)

// NewCommand makes a command; SetStamp writes the leader's time into an encoded one.
var (
	NewCommand    = store.NewCommand
	SetStamp      = store.SetStamp
	DecodeCommand = store.DecodeCommand
)

// RulesVersion is the newest version of the rules that writers know.
const RulesVersion = store.RulesVersion

// What asking a provider can come to.
var (
	ErrGone       = provider.ErrGone
	ErrCredential = provider.ErrCredential
)

// InProcess has Pullers ask a handler in this process.
var InProcess = provider.InProcess

// Conflicting is the outcome of a message whose id was used with another content.
const Conflicting = store.Conflicting
