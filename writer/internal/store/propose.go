package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
)

// Propose commits a command, made by Command.Encode, to a majority of writers, applies it, and returns what it came to. The
// leader stamps it; encoded itself is not changed and may be proposed again. A provider's message that is known already is
// answered from the state, without a write. A Result with a Rejection is no error. Errors: ErrNotLeader, ErrBusy, ErrClock,
// ErrTooLarge, ErrCommand (nothing was written); ErrOutcomeUnknown.
func (s *Store) Propose(ctx context.Context, encoded []byte) (Result, error) {
	if len(encoded) > MaxEntryBytes {
		return Result{}, ErrTooLarge
	}
	if !s.IsLeader() {
		return Result{}, ErrNotLeader
	}
	entry := bytes.Clone(encoded)
	d := decodeEntry(entry)
	if d.err != nil || !d.Type.known() {
		return Result{}, errors.Join(ErrCommand, d.err)
	}
	if st, _, _, _ := s.fsm.current(); st.Rules < d.Type.since() {
		result := rejected(SlugUnavailable, "not every writer knows this request yet: they are being upgraded")
		result.Outcome = Rejected
		return result, nil
	}
	if result, ok, err := s.known(d); ok || err != nil {
		return result, err
	}
	leave, err := s.admit(d.Env)
	if err != nil {
		return Result{}, err
	}
	stamp, err := s.stamp()
	if err != nil {
		leave()
		return Result{}, err
	}
	SetStamp(entry, stamp)
	d.Stamp = stamp
	d.Body = nil // decoded where it is needed again: only API commands, which are rare
	s.fsm.prepared.add(entry, d.reusable())
	future := s.raft.Apply(entry, transportTimeout)
	if ctx.Done() == nil {
		defer leave()
		return s.outcome(entry, d.Type, future)
	}
	type answer struct {
		result Result
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		defer leave()
		result, err := s.outcome(entry, d.Type, future)
		done <- answer{result, err}
	}()
	select {
	case a := <-done:
		return a.result, a.err
	case <-ctx.Done():
		return Result{}, errors.Join(ErrOutcomeUnknown, ctx.Err())
	}
}

// admit takes a place among the environment's proposals in flight; leave gives it back. Errors: ErrBusy, ErrNotLeader after Close.
func (s *Store) admit(env entitlement.Environment) (leave func(), err error) {
	slots := s.slots[env]
	select {
	case slots <- struct{}{}:
	default:
		s.metrics.refused.WithLabelValues("busy").Inc()
		return nil, ErrBusy
	}
	if !s.waiting.enter() {
		<-slots
		return nil, ErrNotLeader
	}
	return func() {
		<-slots
		s.waiting.leave()
	}, nil
}

// reusable returns d where the state machine needs no more than it holds, else nil.
func (d *decoded) reusable() *decoded {
	if d.event == nil {
		return nil
	}
	return d
}

// known answers a provider's message that the state has under this id with the same content.
func (s *Store) known(d *decoded) (result Result, ok bool, err error) {
	if d.event == nil || d.bad || fault.Planted("duplicate-effect") {
		return Result{}, false, nil
	}
	err = s.View(func(r *Reader) error {
		ev := &d.event.Event
		var first eventRow
		found, err := r.decode(bucketEvents, eventKey(d.Env, ev.Provider, ev.ID), &first)
		if err == nil && found && bytes.Equal(first.Digest, d.digest[:]) {
			result, ok = duplicateOf(&first, ev.ID, d.CorrelationID), true
			result.Stamp = r.st.Stamp
		}
		return err
	})
	return result, ok, err
}

// stamp returns the time for the next command: never before an earlier one. Error: ErrClock.
func (s *Store) stamp() (int64, error) {
	s.stampMu.Lock()
	defer s.stampMu.Unlock()
	now, err := s.checkClock()
	if err != nil {
		s.metrics.refused.WithLabelValues("clock").Inc()
		return 0, err
	}
	s.lastStamp = max(s.lastStamp, now)
	return s.lastStamp, nil
}

// outcome waits for a proposal's end.
func (s *Store) outcome(entry []byte, kind CommandType, future raft.ApplyFuture) (Result, error) {
	err := future.Error()
	s.fsm.prepared.take(entry) // where it was not applied
	switch {
	case err == nil:
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return Result{}, fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return Result{}, fmt.Errorf("%w: %w", ErrNotLeader, err)
	default:
		return Result{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	result, ok := future.Response().(Result)
	if !ok {
		return Result{}, fmt.Errorf("%w: the state machine stopped", ErrOutcomeUnknown)
	}
	// Whoever calls the API goes on with what the state now says; a provider only wants to know that its message is kept.
	if kind != TypeRecordEvent {
		s.fsm.commitFor(future.Index())
	}
	return result, nil
}

// ReadIndex returns an index that every write acknowledged before the call is at or below: after WaitApplied of it, on any
// node, a read is linearizable. Only the leader can tell. Errors: ErrNotLeader, that of ctx.
func (s *Store) ReadIndex(ctx context.Context) (uint64, error) {
	term, _, _ := s.lead.current()
	begun := s.transfers.begun.Load()
	if term == 0 || s.transfers.running.Load() != 0 {
		return 0, ErrNotLeader
	}
	index := s.lastCommand(s.raft.CommitIndex())
	// After taking the index: a leader that was deposed before it cannot confirm this (hashicorp/raft#603).
	verified := make(chan error, 1)
	if !s.waiting.enter() {
		return 0, ErrNotLeader
	}
	go func() {
		defer s.waiting.leave()
		verified <- s.raft.VerifyLeader().Error()
	}()
	select {
	case err := <-verified:
		if now, _, _ := s.lead.current(); err != nil || now != term || s.transfers.begun.Load() != begun {
			return 0, ErrNotLeader
		}
		return index, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// lastCommand returns the last index at or below index whose entry reaches the state machine: others (a new leader's empty
// entry, barriers) never show up in its applied index, and nobody could wait for them.
func (s *Store) lastCommand(index uint64) uint64 {
	st, _, _, _ := s.fsm.current()
	for ; index > st.Applied; index-- {
		var entry raft.Log
		if err := s.logs.GetLog(index, &entry); err != nil {
			// Compacted: a snapshot covers it, so the state has it.
			st, _, _, _ = s.fsm.current()
			return st.Applied
		}
		if entry.Type == raft.LogCommand || entry.Type == raft.LogConfiguration {
			break
		}
	}
	return index
}

// WaitApplied waits until this node's state holds the log up to index, which ReadIndex gave. Errors: ErrClosed, that of ctx.
// AppliedIndex is the log index of the last command that reads see.
func (s *Store) AppliedIndex() uint64 {
	st, _, _, _ := s.fsm.current()
	return st.Applied
}

func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	if st, _, _, _ := s.fsm.current(); st.Applied >= index {
		return nil
	}
	s.fsm.waiting.Add(1)
	defer s.fsm.waiting.Add(-1)
	s.fsm.commitFor(index)
	for {
		st, applied, _, stopped := s.fsm.current()
		switch {
		case st.Applied >= index:
			return nil
		case stopped:
			return ErrClosed
		}
		select {
		case <-applied:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var environments = append([]entitlement.Environment{""}, entitlement.Environments...)
