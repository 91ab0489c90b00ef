package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

// How what concerns accounts is measured.
const (
	intentRate  = 500 // a second, over all writers
	intentLasts = 5 * time.Second
	intentGoal  = 50 // ms
	intentRuns  = 5

	lookupGoal     = 0.5
	lookupAccounts = 1000
	// lookupConnections: reads wait for a round trip of the leader to a majority, which they share; few connections would measure its length alone.
	lookupConnections = 256

	largePurchases = 1000
	largeGoal      = 5 // ms
)

// takeIntents: purchase intents on a schedule over all writers, each of another account, and as many as are answered against raft.Apply.
func takeIntents(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, webhookWriters, 0)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	perRun := intentRate * int(intentLasts.Seconds()) / webhookWriters
	accounts, err := s.accounts((1 + intentRuns) * webhookWriters * perRun)
	if err != nil {
		return nil, err
	}
	// intents lets every writer be asked at once, on a schedule or as fast as it answers, and returns the slowest writer's p99.
	intents := func(rate float64, connections int, lasts time.Duration, product string, accounts []string) (sum load.Result, p99 time.Duration, err error) {
		results, errs := make([]load.Result, webhookWriters), make([]error, webhookWriters)
		each := len(accounts) / webhookWriters
		var all sync.WaitGroup
		for i, w := range s.info.Writers {
			all.Go(func() {
				host := strings.TrimPrefix(w.URL, "http://")
				results[i], errs[i] = load.Run(ctx, load.Config{Addr: host, Connections: connections, For: lasts, Status: http.StatusOK, Rate: rate,
					Source: askToBuy(host, s.sandbox().ServerKey, product, connections, accounts[i*each:(i+1)*each])})
			})
		}
		all.Wait()
		for _, r := range results {
			sum.Answers += r.Answers
			sum.Elapsed = max(sum.Elapsed, r.Elapsed)
			p99 = max(p99, r.Quantile(0.99))
		}
		return sum, p99, errors.Join(errs...)
	}
	scheduled := func(run int) (time.Duration, error) {
		_, p99, err := intents(intentRate/webhookWriters, connections, intentLasts, "price_pro_monthly", accounts[run*webhookWriters*perRun:(run+1)*webhookWriters*perRun])
		return p99, err
	}
	const open = webhookInFlight / webhookWriters
	before, err := s.journalBytes()
	if err != nil {
		return nil, err
	}
	warm, _, err := intents(0, open, lasts/3, "price_coins_100", accounts) // without a group: one account may ask for any number
	if err != nil {
		return nil, err
	}
	after, err := s.journalBytes()
	if err != nil {
		return nil, err
	}
	if _, err := scheduled(0); err != nil {
		return nil, err
	}
	f, err := startRaftFloor(int(after-before) / warm.Answers)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	var p99s, floors, ours, ratios []float64
	for run := range intentRuns {
		p99, err := scheduled(1 + run)
		if err != nil {
			return nil, err
		}
		floor, err := f.round()
		if err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
		r, _, err := intents(0, open, lasts, "price_coins_100", accounts)
		if err != nil {
			return nil, err
		}
		p99s, floors, ours, ratios = append(p99s, milliseconds(p99)), append(floors, floor), append(ours, r.PerSecond()), append(ratios, r.PerSecond()/floor)
		fmt.Fprintf(os.Stderr, "  p99 at %d/s %.1f ms; floor %.0f/s, intents %.0f/s\n", intentRate, milliseconds(p99), floor, r.PerSecond())
	}
	best := slices.Max(floors)
	figures := []figure{{Name: "intents_p99", Unit: "ms", Goal: goal(intentGoal), Runs: intentRuns}, {Name: "intents", Value: slices.Max(ours) / best, Unit: ofFloor, Floor: &best, Runs: intentRuns}}
	figures[0].Min, figures[0].Value, figures[0].Max = spread(p99s)
	figures[1].Min, _, figures[1].Max = spread(ratios)
	return figures, nil
}

// askToBuy asks for a purchase intent of each account in turn, each time from another device: the same one would get its intent again.
func askToBuy(host, key, product string, connections int, accounts []string) load.Source {
	return func(dst []byte, connection, n int) []byte {
		body := `{"account_id":"` + accounts[(n*connections+connection)%len(accounts)] + `","provider":"stripe","product_id":"` + product + `","device_id":"d` + strconv.Itoa(connection) + "-" + strconv.Itoa(n) + `"}`
		return fmt.Appendf(dst, "POST /v1/purchase-intents HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, key, len(body), body)
	}
}

// lookups asks for paths in turn.
func lookups(host, key string, paths []string) load.Source {
	return func(dst []byte, connection, n int) []byte {
		dst = append(append(dst, "GET "...), paths[(connection*spaced+n)%len(paths)]...)
		return append(append(append(append(append(dst, " HTTP/1.1\r\nHost: "...), host...), "\r\nAuthorization: Bearer "...), key...), "\r\n\r\n"...)
	}
}

// spaced sets the connections apart.
const spaced = 61

// leader is the URL of the writer that leads.
func (r *running) leader() (string, error) {
	for _, w := range r.info.Writers {
		var ready struct{ Role string }
		if err := r.call(http.MethodGet, w.URL+"/readyz", http.Header{}, nil, http.StatusOK, &ready); err != nil {
			return "", err
		}
		if ready.Role == "leader" {
			return w.URL, nil
		}
	}
	return "", errors.New("no leader")
}

// takeLookup: accounts with a subscription, looked up on the leader, against one key of bbolt behind net/http.
func takeLookup(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, webhookWriters, 0)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	accounts, err := s.accounts(lookupAccounts)
	if err != nil {
		return nil, err
	}
	paths, keys := make([]string, lookupAccounts), make([]string, lookupAccounts)
	for i, account := range accounts {
		if _, err := s.post(stripemsg.NewSubscription(stripemsg.Basil, account, time.Now()).Updated("created", time.Now())); err != nil {
			return nil, err
		}
		paths[i], keys[i] = "/v1/accounts/"+account, "/"+strconv.Itoa(i)
	}
	url, err := s.leader()
	if err != nil {
		return nil, err
	}
	host := strings.TrimPrefix(url, "http://")
	ours := load.Config{Addr: host, Connections: lookupConnections, For: lasts, Status: http.StatusOK, Source: lookups(host, s.sandbox().ServerKey, paths)}
	trial := ours
	trial.For = lasts / 3
	r, err := load.Run(ctx, trial)
	if err != nil {
		return nil, err
	}
	addr, stop, err := startBoltFloor(lookupAccounts, r.Body)
	if err != nil {
		return nil, err
	}
	defer stop()
	floor := ours
	floor.Addr, floor.Source = addr, lookups(addr, s.sandbox().ServerKey, keys)
	var floors, leaders, ratios []float64
	for range rounds {
		f, err := load.Run(ctx, floor)
		if err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
		r, err := load.Run(ctx, ours)
		if err != nil {
			return nil, err
		}
		floors, leaders, ratios = append(floors, f.PerSecond()), append(leaders, r.PerSecond()), append(ratios, r.PerSecond()/f.PerSecond())
	}
	best := slices.Max(floors)
	fmt.Fprintf(os.Stderr, "  %d bytes: floor %.0f/s, leader %.0f/s\n", r.Body, best, slices.Max(leaders))
	least, _, greatest := spread(ratios)
	return []figure{{Name: "account_lookup", Value: slices.Max(leaders) / best, Unit: ofFloor, Goal: goal(lookupGoal), Floor: &best, Min: least, Max: greatest, Runs: rounds}}, nil
}

// startBoltFloor starts the floor of takeLookup and returns its address.
func startBoltFloor(keys, size int) (addr string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return "", nil, err
	}
	program := filepath.Join(dir, "boltfloor")
	// It knows bbolt, so it lies where that is known, and only there it can be built.
	if out, err := exec.Command("go", "build", "-o", program, "./writer/internal/store/boltfloor").CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("build the floor: %w\n%s", err, out)
	}
	cmd := exec.Command(program, "-dir", dir, "-keys", strconv.Itoa(keys), "-size", strconv.Itoa(size))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("floor: %w", err)
	}
	stop = func() { cmd.Process.Kill(); cmd.Wait(); os.RemoveAll(dir) }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("floor: %w", err)
	}
	return strings.TrimSpace(line), stop, nil
}

// takeLarge: how long the answer for an account takes that has bought a thousand times, one request after the other, at the leader and at an edge, which signs
// each for itself.
func takeLarge(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, webhookWriters, 1)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	account, session, err := s.account()
	if err != nil {
		return nil, err
	}
	var revision string
	for n := range largePurchases {
		if revision, err = s.post(coinsBought(account, n, time.Now().Add(-time.Duration(largePurchases-n)*time.Hour))); err != nil {
			return nil, err
		}
	}
	if err := s.visible(session, revision); err != nil {
		return nil, err
	}
	if err := s.hasCoins(account, 100*largePurchases); err != nil {
		return nil, err
	}
	url, err := s.leader()
	if err != nil {
		return nil, err
	}
	host := strings.TrimPrefix(url, "http://")
	var figures []figure
	for _, at := range []struct {
		name   string
		config load.Config
	}{
		{"answer_1000_purchases_leader_p99", load.Config{Addr: host, Source: lookups(host, s.sandbox().ServerKey, []string{"/v1/accounts/" + account + "/entitlements"})}},
		{"answer_1000_purchases_edge_p99", load.Config{Addr: s.edge(), Source: load.Checks(s.edge(), []string{session}, true)}},
	} {
		at.config.Connections, at.config.For, at.config.Status = 1, lasts/3, http.StatusOK
		f := figure{Name: at.name, Unit: "ms", Goal: goal(largeGoal), Runs: rounds}
		var p99s []float64
		for range rounds {
			r, err := load.Run(ctx, at.config)
			if err != nil {
				return nil, err
			}
			p99s = append(p99s, milliseconds(r.Quantile(0.99)))
			fmt.Fprintf(os.Stderr, "  %s: p50 %.2f ms, p99 %.2f ms\n", at.name, milliseconds(r.Quantile(0.5)), milliseconds(r.Quantile(0.99)))
		}
		f.Min, f.Value, f.Max = spread(p99s)
		figures = append(figures, f)
	}
	return figures, nil
}

// coinsBought is a paid checkout of 100 coins, with what it sold.
func coinsBought(account string, n int, at time.Time) stripemsg.Object {
	id := fmt.Sprintf("large%d", n)
	price := stripemsg.Object{"id": "price_coins_100", "object": "price", "product": "prod_coins", "type": "one_time", "unit_amount": 99, "currency": "eur"}
	return stripemsg.Object{"id": "evt_" + id, "object": "event", "api_version": "2025-03-31.basil", "created": at.Unix(), "type": "checkout.session.completed", "livemode": false,
		"data": stripemsg.Object{"object": stripemsg.Object{"id": "cs_test_" + id, "object": "checkout.session", "mode": "payment", "status": "complete", "payment_status": "paid", "livemode": false,
			"payment_intent": "pi_" + id, "customer": "cus_large", "created": at.Unix(), "amount_total": 99, "currency": "eur", "metadata": stripemsg.Object{"account_id": account},
			"line_items": stripemsg.Object{"object": "list", "has_more": false, "data": []any{stripemsg.Object{"id": "li_" + id, "object": "item", "quantity": 1, "amount_total": 99, "price": price}}}}}}
}

// hasCoins shows that all of an account's purchases count.
func (r *running) hasCoins(account string, want int64) error {
	var shown struct {
		Balances map[string]json.Number `json:"balances"`
	}
	header := http.Header{"Authorization": {"Bearer " + r.sandbox().ServerKey}}
	if err := r.call(http.MethodGet, r.info.Writers[0].URL+"/v1/accounts/"+account+"/entitlements", header, nil, http.StatusOK, &shown); err != nil {
		return err
	}
	if got, err := shown.Balances["coins"].Int64(); err != nil || got != want {
		return fmt.Errorf("the account has %s coins, want %d", shown.Balances["coins"], want)
	}
	return nil
}
