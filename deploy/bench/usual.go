package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/latchkey/latchkey/deploy/bench/rival"
	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

const (
	usualGoal    = 1.7
	usualP99Goal = 1 // our p99 over theirs

	rivalCommand = "rival"
	redisWithin  = 10 * time.Second
)

// ofUsual is the unit of figures that are measured against package rival.
const ofUsual = "of the usual"

// takeUsual: an edge beside what a team would build instead, with the same answers, each signed for itself: as fast as they are answered, and at half of the
// usual's peak.
func takeUsual(ctx context.Context, config config) ([]figure, error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	e := &loneEdge{dir: dir, program: filepath.Join(config.programs, "latchkey-edge")}
	_, sessions, stop, err := e.serve(ctx, customers, customers)
	if err != nil {
		return nil, err
	}
	defer stop()
	theirs, err := startUsual(ctx, dir, e, sessions)
	if err != nil {
		return nil, err
	}
	defer theirs.stop()
	ours := load.Config{Addr: e.listen, Connections: connections, For: lasts, Status: http.StatusOK, Source: load.Checks(e.listen, sessions, true)}
	usual := ours
	usual.Addr, usual.Source = theirs.addr, load.Checks(theirs.addr, theirs.sessions, true)
	var rates, usualRates, ratios, p99s, usualP99s, p99Ratios []float64
	for range rounds {
		u, err := load.Run(ctx, usual)
		if err != nil {
			return nil, fmt.Errorf("usual: %w", err)
		}
		o, err := load.Run(ctx, ours)
		if err != nil {
			return nil, err
		}
		half := func(c load.Config) (float64, error) {
			c.Rate, c.Connections = u.PerSecond()/2, 4*connections
			r, err := load.Run(ctx, c)
			return milliseconds(r.Quantile(0.99)), err
		}
		up99, err := half(usual)
		if err != nil {
			return nil, fmt.Errorf("usual: %w", err)
		}
		op99, err := half(ours)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "  usual %.0f/s, edge %.0f/s; p99 at %.0f/s: %.2f ms, %.2f ms\n", u.PerSecond(), o.PerSecond(), u.PerSecond()/2, up99, op99)
		rates, usualRates, ratios = append(rates, o.PerSecond()), append(usualRates, u.PerSecond()), append(ratios, o.PerSecond()/u.PerSecond())
		p99s, usualP99s, p99Ratios = append(p99s, op99), append(usualP99s, up99), append(p99Ratios, op99/up99)
	}
	best := slices.Max(usualRates)
	least, _, greatest := spread(ratios)
	p99Least, _, p99Greatest := spread(p99Ratios)
	return []figure{
		{Name: "edge_beside_usual", Value: slices.Max(rates) / best, Unit: ofUsual, Goal: goal(usualGoal), Floor: &best, Min: least, Max: greatest, Runs: rounds},
		{Name: "edge_beside_usual_p99", Value: slices.Min(p99s) / slices.Min(usualP99s), Unit: "of the usual's p99", Goal: goal(usualP99Goal), Min: p99Least, Max: p99Greatest, Runs: rounds},
	}, nil
}

// usualSystem is a running rival with its Redis.
type usualSystem struct {
	addr     string
	sessions []string
	stop     func()
}

// startUsual starts Redis and the rival, gives it what the edge answers to each session, and makes sure that it then answers the same.
func startUsual(ctx context.Context, dir string, e *loneEdge, sessions []string) (u *usualSystem, err error) {
	var stops []func()
	stop := func() {
		for _, s := range slices.Backward(stops) {
			s()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	redis, stopRedis, err := startRedis(ctx, dir)
	if err != nil {
		return nil, err
	}
	stops = append(stops, stopRedis)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	u = &usualSystem{stop: stop}
	config := rival.Config{Redis: redis.Addr}
	if config.SessionKey, err = rival.FormatKey(&key.PublicKey); err != nil {
		return nil, err
	}
	for _, session := range sessions {
		body, err := ask(ctx, e.listen, session)
		if err != nil {
			return nil, err
		}
		var a rival.Answer
		if err := json.Unmarshal(body, &a); err != nil {
			return nil, err
		}
		header, claims, err := look(a.GraceToken)
		if err != nil {
			return nil, err
		}
		config.Header, config.Audience = header, replicationtest.Audience(entitlement.Production)
		config.Issuer, _ = claims["iss"].(string)
		device, _ := claims["dev"].(string)
		a.ServerTime, a.AsOf, a.FreshUntil, a.GraceToken = time.Time{}, time.Time{}, time.Time{}, ""
		record, err := json.Marshal(a)
		if err != nil {
			return nil, err
		}
		if err := redis.Set("account:"+a.Account, string(record)); err != nil {
			return nil, err
		}
		made, err := rival.Session(key, config.Issuer, config.Audience, a.Account, device)
		if err != nil {
			return nil, err
		}
		u.sessions = append(u.sessions, made)
	}
	public, stopRival, err := u.start(config)
	if err != nil {
		return nil, err
	}
	stops = append(stops, stopRival)
	ours, err := ask(ctx, e.listen, sessions[0])
	if err != nil {
		return nil, err
	}
	theirs, err := ask(ctx, u.addr, u.sessions[0])
	if err != nil {
		return nil, err
	}
	return u, sameAnswer(ours, theirs, public)
}

// start starts the rival as a process of its own: this program, called by another name.
func (u *usualSystem) start(config rival.Config) (public *ecdsa.PublicKey, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	input, err := json.Marshal(config)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(self, rivalCommand)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("rival: %w", err)
	}
	stop = func() { cmd.Process.Kill(); cmd.Wait() }
	lines := bufio.NewScanner(out)
	var said []string
	for len(said) < 2 && lines.Scan() {
		said = append(said, lines.Text())
	}
	if len(said) < 2 {
		stop()
		return nil, nil, errors.New("rival: it did not start")
	}
	u.addr = said[0]
	if public, err = rival.ParseKey(said[1]); err != nil {
		stop()
		return nil, nil, fmt.Errorf("rival: %w", err)
	}
	return public, stop, nil
}

// startRedis starts a server that writes nothing to the disk, and returns when it answers.
func startRedis(ctx context.Context, dir string) (client *rival.Redis, stop func(), err error) {
	port, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	port += 50 // the edge listens on the first of the block
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--save", "", "--appendonly", "no", "--dir", dir, "--daemonize", "no", "--logfile", filepath.Join(dir, "redis.log"))
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("redis-server (make bench installs it): %w", err)
	}
	stop = func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }
	client = &rival.Redis{Addr: "127.0.0.1:" + strconv.Itoa(port)}
	ctx, cancel := context.WithTimeout(ctx, redisWithin)
	defer cancel()
	for {
		if err = client.Set("ready", "yes"); err == nil {
			return client, stop, nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			stop()
			return nil, nil, err
		}
	}
}

// ask checks once, with a nonce.
func ask(ctx context.Context, addr, session string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/entitlements?nonce=n", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+session)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %d %.300s", addr, res.StatusCode, body)
	}
	return body, nil
}

// look returns header and claims of a token without a look at its signature.
func look(token string) (header, claims map[string]any, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, nil, errors.New("not a token")
	}
	for i, into := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return nil, nil, err
		}
		if err := json.Unmarshal(text, into); err != nil {
			return nil, nil, err
		}
	}
	return header, claims, nil
}

// errOtherAnswer means that the two sides do different work.
var errOtherAnswer = errors.New("the rival answers something else")

// sameAnswer compares two answers, their tokens included, in everything but times, and verifies theirs.
func sameAnswer(ours, theirs []byte, key *ecdsa.PublicKey) error {
	var a, b map[string]any
	if err := errors.Join(json.Unmarshal(ours, &a), json.Unmarshal(theirs, &b)); err != nil {
		return err
	}
	ourToken, _ := a["grace_token"].(string)
	theirToken, _ := b["grace_token"].(string)
	header, claims, err := look(ourToken)
	if err != nil {
		return err
	}
	theirHeader, theirClaims, err := rival.Verify(theirToken, key)
	if err != nil {
		return fmt.Errorf("%w: %w", errOtherAnswer, err)
	}
	if !reflect.DeepEqual(header, theirHeader) {
		return fmt.Errorf("%w: the token's header is %v, ours %v", errOtherAnswer, theirHeader, header)
	}
	for _, pair := range [][2]map[string]any{{a, b}, {claims, theirClaims}} {
		for _, m := range pair {
			withoutTimes(m)
		}
		if !reflect.DeepEqual(pair[0], pair[1]) {
			return fmt.Errorf("%w: %v, ours %v", errOtherAnswer, pair[1], pair[0])
		}
	}
	return nil
}

// withoutTimes replaces what moves with the time, so that only its being there is compared. The audience is text or a list of one.
func withoutTimes(m map[string]any) {
	for _, name := range []string{"server_time", "as_of", "fresh_until", "iat", "exp", "grace_token", "aud"} {
		if m[name] != nil {
			m[name] = "set"
		}
	}
	for _, list := range []string{"entitlements", "ent"} {
		entries, _ := m[list].([]any)
		for _, entry := range entries {
			if e, ok := entry.(map[string]any); ok && e["offline_until"] != nil {
				e["offline_until"] = "set"
			}
		}
	}
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
}
