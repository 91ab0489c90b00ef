package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"
)

// receiptsEach is how many purchases are shown of each provider: the slowest decide the p99.
const receiptsEach = 100

// shownBy are the providers whose receipts are taken, with a product that each sells.
var shownBy = soldBy[:3]

// errWebhooks means that what was to be shown without webhooks had some.
var errWebhooks = errors.New("webhooks came")

// takeReceipts: from a purchase in the simulator, whose webhooks are an hour late, until every edge answers that its account has pro, because the app
// has shown its receipt to one of them.
func takeReceipts(ctx context.Context, config config) ([]figure, error) {
	s, err := startStores(config, 3, 2)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if err := s.simulate("chaos", map[string]any{"chaos": map[string]any{"hold": "1h"}}); err != nil {
		return nil, err
	}
	var took []time.Duration
	for _, sold := range shownBy {
		var of []time.Duration
		for n := range receiptsEach {
			account, session, err := s.account()
			if err != nil {
				return nil, err
			}
			name := fmt.Sprintf("%s-%d", sold.provider, n)
			one, err := s.pays(ctx, session, func() error {
				if err := s.buy(sold.provider, sold.product, account, name); err != nil {
					return err
				}
				return s.show(name, session, s.info.Edges[n%len(s.info.Edges)].URL)
			})
			if err != nil {
				return nil, fmt.Errorf("purchase %s: %w", name, err)
			}
			of = append(of, one)
		}
		slices.Sort(of)
		fmt.Fprintf(os.Stderr, "  %s: p50 %.1f ms, slowest %.1f ms\n", sold.provider, milliseconds(of[len(of)/2]), milliseconds(of[len(of)-1]))
		took = append(took, of...)
	}
	if err := s.noWebhooks(); err != nil {
		return nil, err
	}
	return latencies("receipt_to_edge", took), nil
}

// show posts what the app has of a purchase to an edge.
func (r *running) show(purchase, session, edge string) error {
	var proof json.RawMessage
	if err := r.call(http.MethodGet, r.info.Storesim.URL+"/sim/v1/proof?purchase="+purchase, http.Header{}, nil, http.StatusOK, &proof); err != nil {
		return err
	}
	var shown struct {
		Results []struct {
			Outcome string `json:"outcome"`
		} `json:"results"`
	}
	body := fmt.Appendf(nil, `{"receipts": [%s]}`, proof)
	header := http.Header{"Authorization": {"Bearer " + session}, "Content-Type": {"application/json"}}
	if err := r.call(http.MethodPost, edge+"/v1/receipts", header, body, http.StatusOK, &shown); err != nil {
		return err
	}
	if len(shown.Results) != 1 || shown.Results[0].Outcome != "recorded" {
		return fmt.Errorf("the receipt of %s came to %+v", purchase, shown.Results)
	}
	return nil
}

// noWebhooks shows that the simulation has posted nothing. Error: errWebhooks.
func (r *running) noWebhooks() error {
	var shown struct {
		Counts map[string]struct {
			Posted int `json:"posted"`
		} `json:"counts"`
	}
	if err := r.call(http.MethodGet, r.info.Storesim.URL+"/sim/v1/counts", http.Header{}, nil, http.StatusOK, &shown); err != nil {
		return err
	}
	for provider, n := range shown.Counts {
		if n.Posted > 0 {
			return fmt.Errorf("%w: %d of %s", errWebhooks, n.Posted, provider)
		}
	}
	return nil
}
