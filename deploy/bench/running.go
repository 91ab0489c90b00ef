package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/deploy/system"
)

// running is a system of real processes, and a client of it.
type running struct {
	system *system.System
	info   system.Info
	client *http.Client
	dir    string
}

// startSystem starts a system in a folder that is removed afterwards.
func startSystem(config config, writers, edges int) (*running, error) {
	return start(system.Config{Writers: writers, Edges: edges, Programs: config.programs})
}

// startStores starts one with the simulated providers.
func startStores(config config, writers, edges int) (*running, error) {
	return start(system.Config{Writers: writers, Edges: edges, Programs: config.programs, Storesim: true})
}

func start(config system.Config) (*running, error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	config.Dir, config.Port, config.Out = dir, port, io.Discard
	s, err := system.Start(context.Background(), config)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}
	return &running{system: s, info: s.Info(), client: client, dir: dir}, nil
}

func (r *running) stop() {
	if err := r.system.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop:", err)
	}
	os.RemoveAll(r.dir)
}

func (r *running) edge() string { return strings.TrimPrefix(r.info.Edges[0].URL, "http://") }

func (r *running) sandbox() system.Environment { return r.info.Environments["sandbox"] }

// call sends one request and decodes the answer, which must have the status want.
func (r *running) call(method, url string, header http.Header, body []byte, want int, into any) error {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = header
	res, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != want {
		return fmt.Errorf("%s %s: %d %.300s", method, url, res.StatusCode, text)
	}
	return json.Unmarshal(text, into)
}

// account makes an account and a session for it.
func (r *running) account() (id, session string, err error) {
	if id, err = r.newAccount(); err != nil {
		return "", "", err
	}
	var made struct {
		Token string `json:"session_token"`
	}
	err = r.api("sandbox", "/v1/accounts/"+id+"/sessions", `{"device_id":"bench","ttl_seconds":86400}`, &made)
	return id, made.Token, err
}

func (r *running) newAccount() (string, error) { return r.newAccountIn("sandbox") }

func (r *running) newAccountIn(env string) (string, error) {
	var made struct {
		ID string `json:"account_id"`
	}
	err := r.api(env, "/v1/accounts", `{"aliases":[],"attributes":{}}`, &made)
	return made.ID, err
}

// api posts to the first writer with the environment's server key.
func (r *running) api(env, path, body string, into any) error {
	header := http.Header{"Authorization": {"Bearer " + r.info.Environments[env].ServerKey}, "Content-Type": {"application/json"}}
	return r.call(http.MethodPost, r.info.Writers[0].URL+path, header, []byte(body), http.StatusCreated, into)
}

// post sends a message as Stripe does and returns the revision at which it shows.
func (r *running) post(message stripemsg.Object) (string, error) {
	body := stripemsg.Encode(message)
	hook := r.sandbox().Webhooks["stripe"]
	header := http.Header{"Stripe-Signature": {stripemsg.Sign(hook.Secret, body, time.Now())}, "Content-Type": {"application/json"}}
	var done struct{ Revision string }
	err := r.call(http.MethodPost, r.info.Writers[0].URL+hook.Path, header, body, http.StatusOK, &done)
	return done.Revision, err
}

// visible returns when every edge answers at revision or newer.
func (r *running) visible(session, revision string) error {
	for _, edge := range r.info.Edges {
		header := http.Header{"Authorization": {"Bearer " + session}}
		var answer struct{}
		if err := r.call(http.MethodGet, edge.URL+"/v1/entitlements?wait=10&min_revision="+revision, header, nil, http.StatusOK, &answer); err != nil {
			return err
		}
	}
	return nil
}
