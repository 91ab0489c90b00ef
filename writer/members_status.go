package writer

import (
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/latchkey/latchkey/writer/internal/store"
)

// usageInterval is how long a count of the data folder's bytes is good for: it walks all files.
const usageInterval = 30 * time.Second

// usage counts the bytes in the data folder, now and then.
type usage struct {
	dir string

	mu    sync.Mutex
	at    time.Time
	total int64
}

func newUsage(dir string) *usage { return &usage{dir: dir} }

// bytes returns how many bytes the folder's files have. What cannot be read, or goes meanwhile, does not count.
func (u *usage) bytes() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.at.IsZero() && time.Since(u.at) < usageInterval {
		return u.total
	}
	u.at, u.total = time.Now(), 0
	_ = filepath.WalkDir(u.dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			u.total += info.Size()
		}
		return nil
	})
	return u.total
}

// Member is a writer of the cluster, as the one that is asked knows it.
type Member struct {
	ID       string `json:"id"`
	Raft     string `json:"raft"`
	Internal string `json:"internal"`
	Leader   bool   `json:"leader"`
	// Suffrage is "voter" or "non-voter": one that is joining. Empty: this writer waits to be taken in, and knows the others from its configuration.
	Suffrage string `json:"suffrage"`
	// State is what it last said of itself; null if that is more than 10 s ago.
	State *MemberState `json:"state"`
}

// MemberState is what a writer says of itself once a second.
type MemberState struct {
	AgeSeconds      float64 `json:"age_seconds"` // of this: how long ago it was asked
	Version         string  `json:"version"`
	RulesKnown      uint32  `json:"rules_known"` // the newest rules that its program knows
	Ready           bool    `json:"ready"`
	Term            uint64  `json:"term"`
	CommitIndex     uint64  `json:"commit_index"`
	AppliedIndex    uint64  `json:"applied_index"`
	LastIndex       uint64  `json:"last_index"`
	Lag             uint64  `json:"lag"`              // log entries between what it has applied and the most advanced one that answers
	MissingSegments int     `json:"missing_segments"` // of the journal, that it still has to fetch: no full member before 0
	DiskFreeBytes   int64   `json:"disk_free_bytes"`
	DiskUsedBytes   int64   `json:"disk_used_bytes"` // by its data folder, of the last half minute
	DiskLow         bool    `json:"disk_low"`
	// ClockOffsetSeconds is how far its clock is ahead of the asked writer's; null: not measured.
	ClockOffsetSeconds *float64 `json:"clock_offset_seconds"`
}

// members lists the cluster's writers with what they last said.
func (w *Writer) members(leader string) ([]Member, error) {
	known, err := w.store.Members()
	if err != nil {
		return nil, err
	}
	list := []Member{}
	for _, m := range known {
		if m.Suffrage == store.Outside {
			continue
		}
		list = append(list, Member{ID: m.ID, Raft: m.Raft, Internal: w.internalOf(m.ID), Leader: m.ID == leader, Suffrage: string(m.Suffrage)})
	}
	if len(list) == 0 {
		for _, v := range w.cfg.Cluster.Voters {
			list = append(list, Member{ID: v.ID, Raft: v.Raft, Internal: v.Internal})
		}
	}
	offsets := map[string]float64{}
	for _, o := range w.ClockStatus().Offsets {
		offsets[o.ID] = o.OffsetSeconds
	}
	most := uint64(0)
	for i := range list {
		list[i].State = w.memberState(list[i].ID, offsets)
		if s := list[i].State; s != nil {
			most = max(most, s.AppliedIndex)
		}
	}
	for _, m := range list {
		if m.State != nil {
			m.State.Lag = most - m.State.AppliedIndex
		}
	}
	return list, nil
}

// memberState returns nil for a writer that did not answer of late.
func (w *Writer) memberState(id string, offsets map[string]float64) *MemberState {
	var v vitals
	age := 0.0
	zero := 0.0
	offset := &zero
	if id == w.cfg.Node.ID {
		v = w.ownVitals()
	} else {
		w.vitalsMu.Lock()
		p, heard := w.vitals[id]
		w.vitalsMu.Unlock()
		if !heard || time.Since(p.heard) > clockKept {
			return nil
		}
		v, age, offset = p.vitals, time.Since(p.heard).Seconds(), nil
		if seconds, measured := offsets[id]; measured {
			offset = &seconds
		}
	}
	return &MemberState{AgeSeconds: age, Version: v.Version, RulesKnown: v.Rules, Ready: v.Ready, Term: v.Term, CommitIndex: v.Commit, AppliedIndex: v.Applied,
		LastIndex: v.Last, MissingSegments: v.MissingSegments, DiskFreeBytes: v.Free, DiskUsedBytes: v.Used, DiskLow: v.Low, ClockOffsetSeconds: offset}
}
