package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// barrierTimeout bounds how long a new leader waits for its state machine to have caught up before it gives the lead away.
const barrierTimeout = time.Minute

// transferTries is how often Close offers the lead to another node.
const transferTries = 3

// Leader returns the id of the node that leads as far as this node knows, or "".
func (s *Store) Leader() string {
	_, id := s.raft.LeaderWithID()
	return string(id)
}

// IsLeader reports whether this node leads and its state holds everything committed in earlier terms.
func (s *Store) IsLeader() bool {
	term, _, _ := s.lead.current()
	return term != 0
}

// LeaderContext waits until this node leads and its state holds everything committed before, and returns a context that lives
// while it does. Leader-only work runs under it. Errors: ErrClosed, and that of ctx.
func (s *Store) LeaderContext(ctx context.Context) (context.Context, error) {
	for {
		_, leading, changed := s.lead.current()
		if leading != nil {
			return leading, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// TransferLeadership gives the lead to the most advanced other voter. Error: ErrNotLeader.
func (s *Store) TransferLeadership() error {
	return s.giveAway(func() error { return s.raft.LeadershipTransfer().Error() })
}

// giveAway runs transfer, during which this node confirms no read. raft.VerifyLeader may count what a voter answered a moment before it was asked; everywhere else
// such a voter makes nobody else the leader for longer than its answer can travel, but whoever the lead is given to is elected at once.
func (s *Store) giveAway(transfer func() error) error {
	s.transfers.running.Add(1)
	s.transfers.begun.Add(1)
	defer s.transfers.running.Add(-1)
	err := transfer()
	if errors.Is(err, raft.ErrNotLeader) {
		return ErrNotLeader
	}
	return err
}

// transfers counts how often the lead was to be given away, and how often it is right now.
type transfers struct{ running, begun atomic.Int64 }

// TransferLeadershipTo gives the lead to a voter. Errors: ErrNotLeader, ErrMembership for one that is no voter.
func (s *Store) TransferLeadershipTo(id string) error {
	for _, server := range s.raft.GetConfiguration().Configuration().Servers {
		if string(server.ID) != id || server.Suffrage != raft.Voter {
			continue
		}
		if id == s.cfg.ID && s.IsLeader() {
			return nil
		} else if id == s.cfg.ID {
			return ErrNotLeader
		}
		return s.giveAway(func() error { return s.raft.LeadershipTransferToServer(server.ID, server.Address).Error() })
	}
	return fmt.Errorf("%w: %q is no voter of this cluster", ErrMembership, id)
}

// followLeadership turns Raft's notices into leadership. Raft announces a leader before its first entry is committed, so
// nothing may be answered from the state before the barrier.
func (s *Store) followLeadership() {
	for {
		select {
		case leads := <-s.notify:
			s.lead.end()
			if leads {
				s.takeLead()
			}
		case <-s.ctx.Done():
			s.lead.end()
			return
		}
		s.metrics.leader.Set(map[bool]float64{true: 1}[s.IsLeader()])
	}
}

func (s *Store) takeLead() {
	term := s.raft.CurrentTerm()
	if err := s.raft.Barrier(barrierTimeout).Error(); err != nil {
		s.log.Warn("barrier of a new leader", "term", term, "error", err)
		if s.raft.State() == raft.Leader {
			s.log.Warn("give the lead away", "error", s.TransferLeadership())
		}
		return
	}
	s.fsm.commitNow()
	if err := s.found(); err != nil {
		s.log.Warn("first command of the cluster", "error", err)
		return
	}
	if err := s.raise(); err != nil {
		s.log.Warn("first command after a restore", "error", err)
		return
	}
	if s.raft.State() != raft.Leader || s.raft.CurrentTerm() != term {
		return // the notice of the end is on its way
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.lead.begin(ctx, cancel, term)
	s.background.Go(func() { s.tend(ctx) })
	s.background.Go(func() { s.tendMembers(ctx) })
	s.log.Info("leads", "term", term)
}

// found proposes Init where the state has no cluster yet, and checks whose state it is where it has.
func (s *Store) found() error {
	st, _, _, _ := s.fsm.current()
	if st.Epoch == 0 {
		command := NewCommand(TypeInit, "", "", &Init{Cluster: s.cfg.Cluster, Rules: s.cfg.Rules})
		command.Stamp = s.firstStamp()
		future := s.raft.Apply(command.Encode(), transportTimeout)
		if err := future.Error(); err != nil {
			return err
		}
		s.fsm.commitNow()
		st, _, _, _ = s.fsm.current()
	}
	if st.Cluster != s.cfg.Cluster {
		err := fmt.Errorf("the state on disk is of cluster %q, configured is %q", st.Cluster, s.cfg.Cluster)
		s.fsm.fail(err)
		return err
	}
	return nil
}

// tend is the leader's own housekeeping: trimming the change log.
func (s *Store) tend(ctx context.Context) {
	tick := time.NewTicker(s.cfg.TrimInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.trimNow(ctx)
		}
	}
}

func (s *Store) trimNow(ctx context.Context) {
	for ctx.Err() == nil {
		var floor uint64
		err := s.View(func(r *Reader) error {
			floor = trimFloor(r.tx, &r.st, s.clock().Add(-s.cfg.ChangeLogAge).Unix(), s.cfg.ChangeLogBytes)
			return nil
		})
		if err != nil || floor == 0 || !s.proposeOwn(ctx, NewCommand(TypeTrim, "", "", &Trim{Floor: floor})) {
			return
		}
	}
}

func (s *Store) proposeOwn(ctx context.Context, command Command) bool {
	if _, err := s.Propose(ctx, command.Encode()); err != nil {
		s.log.WarnContext(ctx, "housekeeping command", "type", command.Type, "error", err)
		return false
	}
	return true
}
