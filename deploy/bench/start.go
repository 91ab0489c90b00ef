package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// startGoal is how long an edge may take to its first answer, in milliseconds.
const startGoal = 1000

// fillWithin bounds how long the edge takes its snapshot in: not part of the figure.
const fillWithin = 10 * time.Minute

// takeStart: from the start of the edge's process to its first answer, with many accounts on its disk, none of the file in memory, and no
// writer to ask.
func takeStart(ctx context.Context, config config) ([]figure, error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	e := &loneEdge{dir: dir, program: filepath.Join(config.programs, "latchkey-edge")}
	sessions, err := e.fill(ctx, config.accounts)
	if err != nil {
		return nil, err
	}
	var took []float64
	for range rounds {
		if err := e.forget(); err != nil {
			return nil, err
		}
		began := time.Now()
		stop, err := e.start()
		if err != nil {
			return nil, err
		}
		err = e.firstAnswer(ctx, sessions[0])
		took = append(took, milliseconds(time.Since(began)))
		stop()
		if err != nil {
			return nil, err
		}
	}
	memory, err := e.takeMemory(ctx, sessions)
	if err != nil {
		return nil, err
	}
	least, middle, greatest := spread(took)
	return []figure{memory, {Name: "edge_start_1m", Value: middle, Unit: "ms", Goal: goal(startGoal), Min: least, Max: greatest, Runs: rounds}}, nil
}

// loneEdge is an edge process whose writer is a stand-in inside this program.
type loneEdge struct {
	dir     string
	program string
	listen  string
	pid     int         // of the process that was started last
	secure  *tls.Config // what a client knows of it when it ends TLS; nil: it does not
	env     []string    // further variables of its configuration

	profiles string // folder for its profiles; empty: none
}

// fill gives the edge accounts by a snapshot, and takes the writer away. It returns sessions of some of them.
func (e *loneEdge) fill(ctx context.Context, accounts int) (sessions []string, err error) {
	_, sessions, stop, err := e.serve(ctx, accounts, askers)
	if err != nil {
		return nil, err
	}
	stop()
	return sessions, nil
}

// serve starts the edge and, inside this program, a writer with so many accounts that it follows. It returns when the edge has all of them, with sessions of the
// first ones, as many as there are askers at most; stop ends both.
func (e *loneEdge) serve(ctx context.Context, accounts, askers int) (writer *replicationtest.Writer, sessions []string, stop func(), err error) {
	writer, err = standIn(accounts)
	if err != nil {
		return nil, nil, nil, err
	}
	unfollow, err := e.follow(writer)
	if err != nil {
		return nil, nil, nil, err
	}
	end, err := e.start()
	if err != nil {
		unfollow()
		return nil, nil, nil, err
	}
	stop = func() { end(); unfollow() }
	ctx, cancel := context.WithTimeout(ctx, fillWithin)
	defer cancel()
	if err := e.firstAnswer(ctx, writer.Session(entitlement.Production, accountID(accounts-1))); err != nil {
		stop()
		return nil, nil, nil, err
	}
	for n := range min(askers, accounts) {
		sessions = append(sessions, writer.Session(entitlement.Production, accountID(n)))
	}
	return writer, sessions, stop, nil
}

// standIn makes a writer's side of replication inside this program with so many accounts.
func standIn(accounts int) (*replicationtest.Writer, error) {
	writer, err := replicationtest.New("bench")
	if err != nil {
		return nil, err
	}
	// Without a catalog an edge waits until its whole file is proven: it cannot know that there is none.
	writer.PutCatalog(entitlement.Production, entitlement.Catalog{Products: []entitlement.Product{
		{Provider: entitlement.Stripe, ID: "price_pro_monthly", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "pro_monthly", Group: "pro"},
	}})
	now := time.Now().Unix()
	for n := range accounts {
		writer.PutAccount(entitlement.Production, customer(n, now))
		if n%10_000 == 0 {
			writer.Trim() // the edge will need a snapshot anyway; this keeps the log out of memory
		}
	}
	writer.Trim()
	return writer, nil
}

// follow serves the writer and makes it the one that the edge follows.
func (e *loneEdge) follow(writer *replicationtest.Writer) (close func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: writer}
	go server.Serve(l)
	return func() { server.Close() }, e.configure("http://"+l.Addr().String(), writer.Roots())
}

// customer is the n-th account, with a subscription as Stripe's adapter folds one.
func customer(n int, now int64) entitlement.Account {
	return entitlement.Account{
		ID: accountID(n), CreatedAt: now,
		Purchases: []entitlement.Purchase{{
			ID: entitlement.PurchaseID(fmt.Sprintf("stripe:sub_%d", n)), Provider: entitlement.Stripe, Store: "stripe",
			Items: []entitlement.Item{{
				ID: fmt.Sprintf("si_%d", n), State: entitlement.Live, AccessUntil: now + 31*24*3600, WillRenew: true, Recurring: true,
				Term: entitlement.Term{
					ID: entitlement.TermID(fmt.Sprintf("si_%d/%d", n, now)), StartsAt: now, EndsAt: now + 30*24*3600,
					Sold: entitlement.Sold{Product: "price_pro_monthly", Quantity: 1, Price: &entitlement.Price{Amount: 999, Currency: "EUR", Period: "P1M"}},
				},
			}},
		}},
	}
}

func accountID(n int) entitlement.AccountID {
	return entitlement.AccountID(fmt.Sprintf("acc_01BENCH%019d", n))
}

// configure writes the edge's configuration.
func (e *loneEdge) configure(writer string, roots token.Roots) error {
	var pins []string
	for i, root := range roots {
		pem, err := token.MarshalPublicKeyPEM(root)
		if err != nil {
			return err
		}
		path := filepath.Join(e.dir, fmt.Sprintf("root%d.pem", i))
		if err := os.WriteFile(path, pem, 0o600); err != nil {
			return err
		}
		pins = append(pins, path)
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	e.listen = fmt.Sprintf("127.0.0.1:%d", port)
	environments := map[string]any{}
	for _, env := range entitlement.Environments {
		environments[string(env)] = map[string]any{"audience": replicationtest.Audience(env)}
	}
	b, err := yaml.Marshal(map[string]any{
		"node":         map[string]any{"id": "e1", "data_dir": filepath.Join(e.dir, "e1"), "cluster": "bench", "listen": e.listen},
		"writers":      map[string]any{"urls": []string{writer}},
		"trust":        map[string]any{"root_public_keys": pins},
		"log":          map[string]any{"level": "error"},
		"environments": environments,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.dir, "edge.yaml"), b, 0o600)
}

func (e *loneEdge) start() (stop func(), err error) {
	args := []string{"serve", "--config", filepath.Join(e.dir, "edge.yaml")}
	if e.profiles != "" {
		args = append(args, "--profile", e.profiles)
	}
	cmd := exec.Command(e.program, args...)
	cmd.Stderr, cmd.Env = os.Stderr, append(os.Environ(), e.env...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	e.pid = cmd.Process.Pid
	return func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }, nil
}

// forget drops the edge's files from the system's memory: as after a restart of the machine.
func (e *loneEdge) forget() error {
	return filepath.WalkDir(filepath.Join(e.dir, "e1"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		err = f.Sync()
		if err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		if err != nil {
			return fmt.Errorf("drop %s from memory: %w", path, err)
		}
		return nil
	})
}

// firstAnswer returns when the edge has answered the session's check with 200 and a signature.
func (e *loneEdge) firstAnswer(ctx context.Context, session string) error {
	client, scheme := &http.Client{Timeout: 10 * time.Second}, "http://"
	if e.secure != nil {
		client.Transport, scheme = &http.Transport{TLSClientConfig: e.secure.Clone()}, "https://"
		defer client.CloseIdleConnections()
	}
	var last error
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+e.listen+"/v1/entitlements", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+session)
		res, err := client.Do(req)
		if err == nil {
			var body bytes.Buffer
			_, err = body.ReadFrom(res.Body)
			res.Body.Close()
			if err == nil && res.StatusCode == http.StatusOK && bytes.Contains(body.Bytes(), []byte(`"grace_token"`)) {
				return nil
			}
			last = fmt.Errorf("%d %.300s, %w", res.StatusCode, body.Bytes(), err)
		} else {
			last = err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("no answer: %w", last)
}
