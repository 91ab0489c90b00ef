package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

// How an app that is opened is measured: a connection of its own over TLS for each check.
const (
	opensGoal    = 0.8
	opensP99Goal = 9 // ms
)

// takeOpens: new connections over TLS with one check each, with full handshakes and with resumed ones, against a bare handler over TLS; and how long they take on
// a schedule of half the rate reached.
func takeOpens(ctx context.Context, config config) ([]figure, error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cert, key, err := publicCertificate(dir)
	if err != nil {
		return nil, err
	}
	app := &tls.Config{InsecureSkipVerify: true} // the same on both sides; what it saves is the client's
	e := &loneEdge{dir: dir, program: filepath.Join(config.programs, "latchkey-edge"), secure: app, env: []string{"LATCHKEY_HTTPS_CERT_FILE=" + cert, "LATCHKEY_HTTPS_KEY_FILE=" + key}}
	_, sessions, stop, err := e.serve(ctx, customers, customers)
	if err != nil {
		return nil, err
	}
	defer stop()
	full := load.Config{Addr: e.listen, Connections: connections, For: lasts, Status: http.StatusOK, Source: load.Checks(e.listen, sessions, false), Opens: app}
	resumed := full
	resumed.Opens = app.Clone()
	resumed.Opens.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	trial, err := load.Run(ctx, full)
	if err != nil {
		return nil, err
	}
	var figures []figure
	for _, kind := range []struct {
		name string
		load load.Config
	}{{"open_full", full}, {"open_resumed", resumed}} {
		bare := []string{"--cert", cert, "--key", key, "--size", fmt.Sprint(trial.Body)}
		taken, err := compare(ctx, config, "edge_"+kind.name, kind.load, bare...)
		if err != nil {
			return nil, err
		}
		taken[0].Goal = goal(opensGoal)
		p99s, err := opensAtHalf(ctx, config, kind.name+"_half_peak_p99", kind.load, bare...)
		if err != nil {
			return nil, err
		}
		figures = append(append(figures, taken...), p99s...)
	}
	return figures, nil
}

// opensAtHalf takes the p99 on a schedule of half the rate that was reached just before, of the edge and of the bare handler in turn, and the best of both sides.
func opensAtHalf(ctx context.Context, config config, name string, full load.Config, bare ...string) ([]figure, error) {
	addr, stop, err := startFloor(config, bare...)
	if err != nil {
		return nil, err
	}
	defer stop()
	p99s := map[string][]float64{}
	for range rounds {
		for side, addr := range map[string]string{"floor": addr, "edge": full.Addr} {
			full := full
			full.Addr = addr
			peak, err := load.Run(ctx, full)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", side, err)
			}
			half := full
			half.Rate, half.Connections = peak.PerSecond()/2, 4*connections
			r, err := load.Run(ctx, half)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", side, err)
			}
			p99s[side] = append(p99s[side], milliseconds(r.Quantile(0.99)))
			fmt.Fprintf(os.Stderr, "  %s: peak %.0f/s, then %.0f/s: p50 %.2f ms, p99 %.2f ms\n", side, peak.PerSecond(), half.Rate, milliseconds(r.Quantile(0.5)), milliseconds(r.Quantile(0.99)))
		}
	}
	var figures []figure
	for side, aim := range map[string]*float64{"edge": goal(opensP99Goal), "floor": nil} {
		least, _, greatest := spread(p99s[side])
		figures = append(figures, figure{Name: side + "_" + name, Value: least, Unit: "ms", Goal: aim, Min: least, Max: greatest, Runs: rounds})
	}
	sortByName(figures)
	return figures, nil
}

// publicCertificate makes a P-256 certificate for one day in dir.
func publicCertificate(dir string) (cert, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"edge.example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return "", "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	cert, key = filepath.Join(dir, "public.pem"), filepath.Join(dir, "public.key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return "", "", err
		}
	}
	return cert, key, nil
}
