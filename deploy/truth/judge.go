package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/token"
)

const (
	// verifyOneIn is of how many answers one grace token is verified as an app does offline, alsoWriterOneIn of how many accounts the writer is asked too.
	verifyOneIn     = 8
	alsoWriterOneIn = 20
	// graceToken is how long an answer holds offline.
	graceToken = 24 * time.Hour
)

// lie is a mistake of an oracle, or of an edge. A test plants it to see that a year finds it.
type lie struct {
	name string
	late time.Duration         // by which the oracle is asked about another time
	said func(answer *checked) // changes what the edge said; nil changes nothing
}

// position is what a writer or an edge holds.
type position struct {
	Epoch     uint64 `json:"epoch"`
	Revision  uint64 `json:"revision"`
	StateHash string `json:"state_hash"`
}

func (p position) String() string { return fmt.Sprintf("%d-%d", p.Epoch, p.Revision) }

// checked is what of an answer is judged.
type checked struct {
	ServerTime   time.Time       `json:"server_time"`
	Stale        bool            `json:"stale"`
	GraceToken   string          `json:"grace_token"`
	Entitlements []checkedAccess `json:"entitlements"`
}

type checkedAccess struct {
	ID     string `json:"id"`
	Active bool   `json:"active"`
	Status string `json:"status"`
}

func (c checked) pro() bool {
	for _, e := range c.Entitlements {
		if e.ID == "pro" && e.Active {
			return true
		}
	}
	return false
}

// look holds the edge to the oracle, now, about some accounts, and returns those that it is wrong about; where it is final they are told of.
func (y *year) look(ctx context.Context, accounts []string, final bool) (wrong []string, err error) {
	defer spend(&y.judging, time.Now())
	now := y.sim.Now()
	holds, err := y.level(ctx, now)
	if err != nil {
		return nil, err
	}
	underWay := map[string]bool{}
	for purchase := range y.sim.UnderWay() {
		for _, account := range y.book.Users(purchase) {
			underWay[account] = true
		}
	}
	var mu sync.Mutex
	err = each(accounts, func(account string) error {
		if underWay[account] { // nobody could know
			y.skipped.Add(1)
			return nil
		}
		mistake, err := y.judge(ctx, account, holds, now)
		if err != nil || mistake == "" {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if wrong = append(wrong, account); final && y.told.Add(1) <= int64(y.show) {
			fmt.Fprintf(y.out, "%s: %s: %s%s\n", now.Format(time.RFC3339), account, mistake, y.story(account))
		}
		return nil
	})
	return wrong, err
}

// level waits until the edge has all that the writer has, byte by byte (I6), as of now, and can sign for as long as an answer holds.
func (y *year) level(ctx context.Context, now time.Time) (holds position, err error) {
	y.clock.tick()
	if err := y.call(ctx, http.MethodGet, y.writer+"/status", serverKey, "", &holds); err != nil {
		return holds, err
	}
	return holds, poll(ctx, pollEvery, askWithin, "an edge that has everything", func() (bool, error) {
		s := y.edge.Status()
		switch {
		case s.Epoch != holds.Epoch || s.Revision < holds.Revision || s.AsOf != now.Format(time.RFC3339):
			return false, fmt.Errorf("it has %d-%d as of %s, the writer %s", s.Epoch, s.Revision, s.AsOf, holds)
		case s.Revision == holds.Revision && s.StateHash != holds.StateHash:
			return false, errors.New("its state hash is not the writer's")
		case len(s.Certificates) == 0 || s.Certificates[0].ExpiresAt < now.Add(graceToken).Format(time.RFC3339):
			return false, errors.New("its certificate is not renewed")
		}
		return true, nil
	})
}

// judge says what is wrong with the edge's answer about an account, and now and then with the writer's.
func (y *year) judge(ctx context.Context, account string, holds position, now time.Time) (mistake string, err error) {
	want := y.book.EntitledBy(promises, yearEnv, account, "pro", now)
	n := y.answers.Add(1)
	said, text, err := y.ask(ctx, "http://"+y.edge.Addr().String()+"/v1/entitlements?min_revision="+holds.String(), y.sessions[account])
	if err != nil {
		return "", err
	}
	y.tempt(account, said, now)
	switch {
	case said.pro() != (len(want) > 0):
		return fmt.Sprintf("the oracle says pro by %v, the edge %s", want, text), nil
	case said.Stale || !said.ServerTime.Equal(now):
		return fmt.Sprintf("the edge has another time: %s", text), nil
	}
	if n%verifyOneIn == 0 {
		claims, err := token.Verify(said.GraceToken, token.Expect{Roots: y.roots, Audience: yearAudience, Environment: string(yearEnv), Subject: account, At: now})
		if err != nil {
			return fmt.Sprintf("an app would not believe the grace token: %v: %s", err, text), nil
		}
		if claims.Allows("pro", now) != (len(want) > 0) {
			return fmt.Sprintf("the oracle says pro by %v, the grace token something else: %s", want, text), nil
		}
	}
	if n%alsoWriterOneIn == 0 {
		if said, text, err = y.ask(ctx, y.writer+"/v1/accounts/"+account+"/entitlements", serverKey); err != nil {
			return "", err
		}
		if said.pro() != (len(want) > 0) {
			return fmt.Sprintf("the oracle says pro by %v, the writer %s", want, text), nil
		}
	}
	return "", nil
}

// ask asks a node what an account may use.
func (y *year) ask(ctx context.Context, url, credential string) (said checked, text json.RawMessage, err error) {
	var failed error
	err = poll(ctx, metricsEvery, askWithin, "an answer", func() (bool, error) {
		failed = y.call(ctx, http.MethodGet, url, credential, "", &text)
		return !errors.Is(failed, errBusy), failed
	})
	if err = cmp.Or(err, failed); err != nil {
		return said, nil, err
	}
	return said, text, json.Unmarshal(text, &said)
}

// tempt holds an answer to each of the planted lies too, and counts where it would have been wrong.
func (y *year) tempt(account string, said checked, now time.Time) {
	for _, l := range y.lies {
		heard := said
		if l.said != nil {
			heard.Entitlements = append([]checkedAccess(nil), said.Entitlements...)
			l.said(&heard)
		}
		if heard.pro() == (len(y.book.EntitledBy(promises, yearEnv, account, "pro", now.Add(l.late))) > 0) {
			continue
		}
		y.mu.Lock()
		y.believed[l.name]++
		y.mu.Unlock()
	}
}
