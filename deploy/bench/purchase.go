package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// purchasesEach is how many purchases are made of each provider: the slowest decides the p99.
	purchasesEach = 50
	// purchaseGoal is how long a payment may take to access, in milliseconds.
	purchaseGoal = 1000
	// purchaseWithin ends a purchase that never shows.
	purchaseWithin = 15 * time.Second
	// purchasePoll is the time between two questions to an edge: a fraction of what is measured.
	purchasePoll = 2 * time.Millisecond
)

// soldBy are the providers with a product that each sells.
var soldBy = []struct{ provider, product string }{
	{"stripe", "price_pro_monthly"}, {"apple", "com.example.pro_monthly"}, {"google", "pro:monthly"}, {"revenuecat", "com.example.pro_monthly"},
	{"iaptic", "com.example.pro_monthly"}, {"adapty", "com.example.pro_monthly"}, {"web2wave", "price_pro_monthly"},
}

// takePurchases: from a purchase in the simulator until every edge answers that its account has pro.
func takePurchases(ctx context.Context, config config) ([]figure, error) {
	s, err := startStores(config, 3, 2)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(purchasesEach*len(soldBy))*time.Second)
	defer cancel()
	var took []time.Duration
	var each []figure
	for _, sold := range soldBy {
		var of []time.Duration
		for n := range purchasesEach {
			account, session, err := s.account()
			if err != nil {
				return nil, err
			}
			one, err := s.buys(ctx, sold.provider, sold.product, account, session)
			if err != nil {
				return nil, fmt.Errorf("purchase %d of %s: %w", n, sold.provider, err)
			}
			of = append(of, one)
		}
		slices.Sort(of)
		fmt.Fprintf(os.Stderr, "  %s: p50 %.1f ms, slowest %.1f ms\n", sold.provider, milliseconds(of[len(of)/2]), milliseconds(of[len(of)-1]))
		took, each = append(took, of...), append(each, slowest("purchase_to_edge_"+sold.provider, of))
	}
	return append(latencies("purchase_to_edge", took), each...), nil
}

// latencies are the figures of purchases that took so long.
func latencies(name string, took []time.Duration) []figure {
	slices.Sort(took)
	least, greatest := milliseconds(took[0]), milliseconds(took[len(took)-1])
	return []figure{
		{Name: name + "_p50", Value: milliseconds(took[len(took)/2]), Unit: "ms", Min: least, Max: greatest, Runs: len(took)},
		slowest(name, took),
	}
}

// slowest is the p99 of purchases that took so long. took is sorted.
func slowest(name string, took []time.Duration) figure {
	return figure{Name: name + "_p99", Value: milliseconds(took[len(took)*99/100]), Unit: "ms", Goal: goal(purchaseGoal), Min: milliseconds(took[0]), Max: milliseconds(took[len(took)-1]), Runs: len(took)}
}

// buys makes one purchase and returns how long it took until the last edge has answered that it counts.
func (r *running) buys(ctx context.Context, provider, product, account, session string) (time.Duration, error) {
	return r.pays(ctx, session, func() error { return r.buy(provider, product, account, "") })
}

// pays returns how long it took from the beginning of pay until the last edge has answered that the session's account has pro.
func (r *running) pays(ctx context.Context, session string, pay func() error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, purchaseWithin)
	defer cancel()
	began := time.Now()
	errs := make([]error, len(r.info.Edges)+1)
	var all sync.WaitGroup
	all.Go(func() { errs[0] = pay() })
	ends := make([]time.Duration, len(r.info.Edges))
	for i, edge := range r.info.Edges {
		all.Go(func() {
			errs[i+1] = r.untilPro(ctx, edge.URL, session)
			ends[i] = time.Since(began)
		})
	}
	all.Wait()
	return slices.Max(ends), errors.Join(errs...)
}

// buy makes one purchase in the simulation, called name there unless it is empty.
func (r *running) buy(provider, product, account, name string) error {
	return r.simulate("buy", map[string]any{"provider": provider, "product": product, "account": account, "environment": "sandbox", "as": name})
}

// simulate drives the simulation.
func (r *running) simulate(action string, request map[string]any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	var done struct{}
	return r.call(http.MethodPost, r.info.Storesim.URL+"/sim/v1/"+action, http.Header{"Content-Type": {"application/json"}}, body, http.StatusOK, &done)
}

// untilPro asks an edge until it says that the session's account has pro.
func (r *running) untilPro(ctx context.Context, edge, session string) error {
	tick := time.NewTicker(purchasePoll)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, edge+"/v1/entitlements", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+session)
		res, err := r.client.Do(req)
		if err != nil {
			return err
		}
		var body bytes.Buffer
		_, err = body.ReadFrom(res.Body)
		res.Body.Close()
		if err != nil {
			return err
		}
		var answer struct {
			Entitlements []struct {
				ID     string `json:"id"`
				Active bool   `json:"active"`
			} `json:"entitlements"`
		}
		if res.StatusCode == http.StatusOK { // an edge that has not heard of the account yet answers with a problem
			if err := json.Unmarshal(body.Bytes(), &answer); err != nil {
				return err
			}
		}
		for _, e := range answer.Entitlements {
			if e.ID == "pro" && e.Active {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("no pro within %s, last %d %.300s", purchaseWithin, res.StatusCode, body.Bytes())
		}
	}
}
