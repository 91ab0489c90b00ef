package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey/latchkey/deploy/system"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/writertest"
)

// How a writer with many accounts is measured.
const (
	restartGoal   = 10 // seconds
	restartRuns   = 3
	restartWithin = 5 * time.Minute
	fillBatch     = 4096
	// The writer's disk is measured with fewer accounts, which have more events, and told for a million.
	diskShare  = 20
	diskEvents = 10
	million    = 1_000_000
	// segmentBytes is that of the writers' journal.
	segmentBytes = 64 << 20
	day          = 24 * 3600
)

// takeRestart: from the start of a writer's process until it votes, with many accounts, each with a subscription: after a death of the process alone, and
// after one of the machine, when the state is made anew from the newest snapshot.
func takeRestart(ctx context.Context, config config) ([]figure, error) {
	w, err := newLoneWriter(ctx, config)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(w.dir)
	if err := w.fill(config.accounts, 1); err != nil {
		return nil, err
	}
	var kept, anew []float64
	for run := range restartRuns + 1 {
		took, err := w.startAndKill(ctx)
		if err != nil {
			return nil, err
		}
		if run > 0 { // the first one starts from the snapshot that the fill left
			kept = append(kept, took)
		}
	}
	for range restartRuns {
		if err := os.Remove(filepath.Join(w.dir, "w1", "state.kept")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		took, err := w.startAndKill(ctx)
		if err != nil {
			return nil, err
		}
		anew = append(anew, took)
	}
	least, middle, greatest := spread(kept)
	figures := []figure{{Name: "writer_restart_1m", Value: middle, Unit: "s", Goal: goal(restartGoal), Min: least, Max: greatest, Runs: restartRuns}}
	least, middle, greatest = spread(anew)
	return append(figures, figure{Name: "writer_rebuild_1m", Value: middle, Unit: "s", Min: least, Max: greatest, Runs: restartRuns}), nil
}

// takeWriterDisk: what a writer's folder holds for a million accounts with one subscription and ten events each.
func takeWriterDisk(ctx context.Context, config config) ([]figure, error) {
	w, err := newLoneWriter(ctx, config)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(w.dir)
	accounts := config.accounts / diskShare
	if err := w.fill(accounts, diskEvents); err != nil {
		return nil, err
	}
	if _, err := w.startAndKill(ctx); err != nil {
		return nil, err
	}
	var figures []figure
	for _, part := range []struct{ name, path string }{{"state", "state.db"}, {"journal", "journal"}, {"snapshot", "snapshots"}, {"log", "raft"}} {
		bytes, err := sizeUnder(filepath.Join(w.dir, "w1", part.path))
		if err != nil {
			return nil, err
		}
		gigabytes := bytes / float64(accounts) * million / 1e9
		if part.name == "log" {
			gigabytes = bytes / 1e9 // it does not grow with the accounts
		}
		figures = append(figures, figure{Name: "disk_writer_" + part.name, Value: gigabytes, Unit: "GB a million accounts", Min: gigabytes, Max: gigabytes, Runs: 1})
	}
	return figures, nil
}

// loneWriter is one writer's process, started and killed at will.
type loneWriter struct {
	dir, program, config, url string
	cluster, raft             string
}

// newLoneWriter makes keys and configuration as latchkey-dev does, and an empty place for the data.
func newLoneWriter(ctx context.Context, config config) (w *loneWriter, err error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s, err := system.Start(ctx, system.Config{Dir: dir, Port: port, Writers: 1, Programs: config.programs, Out: io.Discard})
	if err != nil {
		return nil, err
	}
	info := s.Info()
	if err := s.Stop(); err != nil {
		return nil, err
	}
	w = &loneWriter{dir: dir, program: filepath.Join(config.programs, "latchkey-writer"), config: filepath.Join(dir, "config", "w1.yaml"), url: info.Writers[0].URL}
	b, err := os.ReadFile(w.config)
	if err != nil {
		return nil, err
	}
	var conf struct {
		Node struct {
			Cluster    string
			RaftListen string `yaml:"raft_listen"`
		}
	}
	if err := yaml.Unmarshal(b, &conf); err != nil {
		return nil, err
	}
	w.cluster, w.raft = conf.Node.Cluster, conf.Node.RaftListen
	return w, os.RemoveAll(filepath.Join(dir, "w1"))
}

// fill gives the writer so many accounts, each with a subscription of which so many events told.
func (w *loneWriter) fill(accounts, events int) error {
	scratch := filepath.Join(w.dir, "fill")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return err
	}
	m, err := writertest.OpenMachine(scratch, segmentBytes)
	if err != nil {
		return err
	}
	now := time.Now().Unix()
	var batch []writertest.Entry
	index := uint64(1)
	add := func(kind writertest.CommandType, env entitlement.Environment, body any) error {
		index++
		entry := writertest.NewCommand(kind, env, "", body).Encode()
		writertest.SetStamp(entry, now)
		if batch = append(batch, writertest.Entry{Index: index, Term: 1, Data: entry}); len(batch) < fillBatch {
			return nil
		}
		_, err := m.Apply(batch)
		batch = batch[:0]
		return err
	}
	err = add(writertest.TypeInit, "", &writertest.Init{Cluster: w.cluster, Rules: 1})
	for n := 0; n < accounts && err == nil; n++ {
		id := entitlement.AccountID(fmt.Sprintf("acc_01BENCH%019d", n))
		err = add(writertest.TypeCreate, entitlement.Production, &writertest.CreateAccount{ID: id})
		for k := 0; k < events && err == nil; k++ {
			err = add(writertest.TypeRecordEvent, entitlement.Production, &writertest.RecordEvent{Event: told(n, k, id, now)})
		}
		if n > 0 && n%(accounts/10+1) == 0 {
			fmt.Fprintf(os.Stderr, "  %d of %d accounts made\n", n, accounts)
		}
	}
	if err == nil {
		_, err = m.Apply(batch)
	}
	if err = errors.Join(err, m.Close()); err != nil {
		return err
	}
	_, err = writertest.FoundMachine(writertest.RestoreConfig{
		Dir: filepath.Join(w.dir, "w1"), Cluster: w.cluster, Voters: []writertest.Voter{{ID: "w1", Addr: w.raft}},
	}, scratch)
	return errors.Join(err, os.RemoveAll(scratch))
}

// told is the k-th event of the n-th account's subscription: it began, then each month an invoice was paid and its period moved on.
func told(n, k int, account entitlement.AccountID, now int64) entitlement.Event {
	sub, customer := fmt.Sprintf("sub_1Bench%014d", n), fmt.Sprintf("cus_Bench%09d", n)
	month := int64(k+1) / 2
	begins := now + month*30*day
	sold := entitlement.Sold{Product: "price_pro_monthly", Quantity: 1}
	o := entitlement.Object{
		Kind: entitlement.KindSubscription, ID: sub, At: (now + int64(k)) * 1e9, Account: account, Rank: 3,
		Aliases: []entitlement.Alias{{Kind: entitlement.StripeCustomer, Value: customer}}, Links: []entitlement.Link{entitlement.Link("stripe:" + sub)},
		Subscription: &entitlement.Subscription{Status: entitlement.Active, StartedAt: now, Items: []entitlement.SubscriptionItem{{
			ID: fmt.Sprintf("si_Bench%09d", n), Sold: sold, StartsAt: begins, EndsAt: begins + 30*day,
		}}},
	}
	kind := "customer.subscription.updated"
	if k%2 == 1 {
		kind = "invoice.paid"
		id := fmt.Sprintf("in_1Bench%09dM%03d", n, month)
		intent := fmt.Sprintf("pi_3Bench%09dM%03d", n, month)
		o = entitlement.Object{
			Kind: entitlement.KindInvoice, ID: id, At: (now + int64(k)) * 1e9, Rank: 4,
			Links: []entitlement.Link{entitlement.Link("stripe:" + id), entitlement.Link("stripe:" + intent), entitlement.Link("stripe:" + sub)},
			Invoice: &entitlement.Invoice{Status: entitlement.InvoicePaid, Subscription: sub, PaymentIntent: intent, AmountPaid: 999, Currency: "EUR", PaidAt: begins,
				Lines: []entitlement.InvoiceLine{{ID: "il_" + id, Item: fmt.Sprintf("si_Bench%09d", n), Amount: 999, StartsAt: begins, EndsAt: begins + 30*day, Sold: sold}}},
		}
	}
	id := fmt.Sprintf("evt_1Bench%09dN%03d", n, k)
	return entitlement.Event{
		Provider: entitlement.Stripe, ID: id, Environment: entitlement.Production, Type: kind, CreatedAt: now + int64(k), Objects: []entitlement.Object{o},
		Raw: fmt.Appendf(nil, `{"api_version":"2023-10-16","created":%d,"data":{"object":{"created":%d,"customer":"%s","id":"%s","items":{"data":[{"id":"si_Bench%09d",`+
			`"price":{"currency":"eur","id":"price_pro_monthly","product":"prod_pro","recurring":{"interval":"month","interval_count":1},"type":"recurring","unit_amount":999},`+
			`"quantity":1}]},"livemode":true,"metadata":{"account_id":"%s"},"object":"%s","status":"active"}},"id":"%s","livemode":true,"object":"event","type":"%s"}`,
			now+int64(k), now, customer, o.ID, n, account, o.Kind, id, kind),
	}
}

// startAndKill starts the writer, waits until it votes and its state is proven, kills it, and returns how many seconds it took to vote.
func (w *loneWriter) startAndKill(ctx context.Context) (float64, error) {
	cmd := exec.Command(w.program, "serve", "--config", w.config)
	cmd.Env = append(os.Environ(), "LATCHKEY_LOG_LEVEL=error")
	cmd.Stderr = os.Stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err := waitUntil(ctx, restartWithin, w.leads)
	took := time.Since(began)
	if err == nil {
		// What it computes after that is no part of the figure, but a death before would make the next start another kind of start.
		err = waitUntil(ctx, restartWithin, func() error {
			_, err := os.Stat(filepath.Join(w.dir, "w1", "state.kept"))
			return err
		})
	}
	err = errors.Join(err, cmd.Process.Signal(syscall.SIGKILL))
	cmd.Wait()
	return took.Seconds(), err
}

// leads returns nil once the writer leads its cluster of one, to which it had to vote.
func (w *loneWriter) leads() error {
	client := http.Client{Timeout: time.Second}
	res, err := client.Get(w.url + "/readyz")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var ready struct {
		Role    string
		Reasons []string
	}
	if err := json.NewDecoder(res.Body).Decode(&ready); err != nil {
		return err
	}
	if ready.Role != "leader" {
		return fmt.Errorf("%s: %s", ready.Role, strings.Join(ready.Reasons, ", "))
	}
	return nil
}

// sizeUnder is how many bytes a file or a folder's files take on the disk.
func sizeUnder(path string) (float64, error) {
	var sum int64
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		var st syscall.Stat_t
		err = syscall.Stat(path, &st)
		sum += st.Blocks * 512
		return err
	})
	return float64(sum), err
}
