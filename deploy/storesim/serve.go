package storesim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	// tickEvery is how often the virtual clock follows the real one.
	tickEvery = 50 * time.Millisecond
	// stopWithin is how long requests may take when the simulation stops.
	stopWithin = 2 * time.Second
	// clockLeap is what other programs' clocks must have followed before a message is posted, and clockFollows how long that takes at most.
	clockLeap    = 2 * time.Second
	clockFollows = 50 * time.Millisecond
	// headerTimeout is how long a request's headers may take.
	headerTimeout = 5 * time.Second
)

// Service is a simulation behind addresses of its own.
type Service struct {
	// Listen is where it is driven; Stores are where the providers' own APIs are, of each environment. Under Listen they are too, with the environment
	// before their paths: /sandbox/v1/subscriptions.
	Listen string
	Stores map[Environment]string
	// Speed is how fast virtual time passes by itself: 1 as real time does, 0 only when it is advanced.
	Speed float64
	// ClockFile, when given, always holds by how much the virtual clock is ahead of the real one, as a duration: other programs' clocks may follow.
	ClockFile string
	// Ready is called once everything answers, with the addresses. Nil is allowed.
	Ready func(control string, stores map[Environment]string)

	written time.Time // the virtual time that ClockFile was written for; OnMove's calls come one by one
}

// Serve runs until ctx ends.
func (v *Service) Serve(ctx context.Context, s *Sim) error {
	control := http.NewServeMux()
	control.Handle("/sim/v1/", s.Control())
	for _, path := range []string{"/healthz", "/readyz"} {
		control.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	}
	handlers := map[string]http.Handler{v.Listen: control}
	for _, env := range Environments {
		if s.config.Credentials[env] == nil {
			continue
		}
		control.Handle("/"+string(env)+"/", http.StripPrefix("/"+string(env), s.Stores(env)))
		if at := v.Stores[env]; at != "" {
			handlers[at] = s.Stores(env)
		}
	}
	if v.ClockFile != "" {
		s.OnMove(func() { v.writeClock(s) })
	}
	var servers []*http.Server
	failed := make(chan error, len(handlers))
	addresses := map[string]string{}
	defer func() {
		stopping, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		for _, server := range servers {
			if server.Shutdown(stopping) != nil {
				server.Close()
			}
		}
	}()
	for at, handler := range handlers {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		addresses[at] = l.Addr().String()
		server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout}
		servers = append(servers, server)
		go func() { failed <- server.Serve(l) }()
	}
	if v.Ready != nil {
		stores := map[Environment]string{}
		for env, at := range v.Stores {
			stores[env] = addresses[at]
		}
		v.Ready(addresses[v.Listen], stores)
	}
	return v.run(ctx, s, failed)
}

// run lets virtual time pass.
func (v *Service) run(ctx context.Context, s *Sim, failed <-chan error) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case now := <-tick.C:
			if passed := time.Duration(float64(now.Sub(last)) * v.Speed); passed > 0 {
				last = now
				if err := s.Advance(ctx, passed); err != nil && ctx.Err() == nil {
					return err
				}
			}
		}
	}
}

// writeClock tells other programs how far the virtual clock is ahead.
func (v *Service) writeClock(s *Sim) {
	ahead := time.Until(s.Now()).Round(time.Second)
	if now := s.Now(); !now.Before(v.written.Add(clockLeap)) {
		defer func() { <-time.After(clockFollows) }() // others read the file every so often
	}
	v.written = s.Now()
	tmp := v.ClockFile + ".tmp"
	if err := errors.Join(os.WriteFile(tmp, []byte(ahead.String()), 0o600), os.Rename(tmp, v.ClockFile)); err != nil {
		slog.Error("clock file", "error", err)
	}
}

// OpenCredentials reads dir/storesim.json, and makes it where it is not there.
func OpenCredentials(dir string) (map[Environment]*Credentials, error) {
	path := filepath.Join(dir, CredentialsFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return NewCredentials(dir)
	}
	return ReadCredentials(path)
}
