package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/token"
)

// Exit codes of every Latchkey program.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const statusTimeout = 5 * time.Second

type streams struct {
	in       io.Reader
	out, err io.Writer
}

// failure is an error of the work itself; every other one that cobra returns is about how the program was called.
type failure struct{ error }

// Unwrap gives the error below.
func (f failure) Unwrap() error { return f.error }

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, s streams) int {
	root := rootCommand(s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(s.err, "latchkey-edge:", err)
	if f := (failure{}); errors.As(err, &f) {
		return exitFailed
	}
	fmt.Fprintln(s.err, "See latchkey-edge --help.")
	return exitUsage
}

func configFlag(cmd *cobra.Command) *string {
	path := cmd.Flags().String("config", "", "configuration `FILE` (YAML); LATCHKEY_<SECTION>_<FIELD> overrides a field")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag was defined on the line above
	}
	return path
}

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Run the edge until SIGINT or SIGTERM", Args: cobra.NoArgs,
		Example: "  latchkey-edge serve --config /etc/latchkey/edge.yaml"}
	path := configFlag(cmd)
	profiles := cmd.Flags().String("profile", "", "write cpu.pprof, allocs.pprof and block.pprof of the whole run into this `FOLDER` at the end, for go tool pprof")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		var cfg edge.Config
		if err := config.Load(*path, &cfg); err != nil {
			return failure{err}
		}
		if *profiles != "" {
			stop, err := profile(*profiles)
			if err != nil {
				return failure{err}
			}
			defer func() {
				if stopErr := stop(); err == nil && stopErr != nil {
					err = failure{stopErr}
				}
			}()
		}
		relaxGC()
		e, err := edge.Open(cfg)
		if err != nil {
			return failure{err}
		}
		if err := errors.Join(e.Run(cmd.Context()), e.Close()); err != nil {
			return failure{err}
		}
		return nil
	}
	return cmd
}

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show how the running edge fares; fails when it is not ready", Args: cobra.NoArgs,
		Example: "  latchkey-edge status --config /etc/latchkey/edge.yaml"}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var cfg edge.Config
		if err := config.Load(*path, &cfg); err != nil {
			return failure{err}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), statusTimeout)
		defer cancel()
		return printStatus(ctx, cmd.OutOrStdout(), &cfg)
	}
	return cmd
}

func printStatus(ctx context.Context, out io.Writer, cfg *edge.Config) error {
	host, port, err := net.SplitHostPort(cfg.Node.Listen)
	if err != nil {
		return failure{err}
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme, client := "http", http.DefaultClient
	if cfg.HTTPS != nil {
		scheme, client = "https", &http.Client{Transport: &http.Transport{TLSClientConfig: onlyCertificate(cfg.HTTPS.CertFile)}}
	}
	get := func(path string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+path, nil)
		if err != nil {
			return nil, err
		}
		return client.Do(req)
	}
	resp, err := get("/status")
	if err != nil {
		return failure{fmt.Errorf("no edge answers: %w", err)}
	}
	defer resp.Body.Close()
	var status edge.Status
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return failure{fmt.Errorf("status: %w", err)}
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(status); err != nil {
		return failure{err}
	}
	ready, err := get("/readyz")
	if err != nil {
		return failure{err}
	}
	defer ready.Body.Close()
	if ready.StatusCode != http.StatusOK {
		return failure{errors.New("the edge is not ready")}
	}
	return nil
}

// errOtherCertificate means that something else listens where the edge should.
var errOtherCertificate = errors.New("what listens there shows another certificate than https.cert_file")

// onlyCertificate believes who shows the certificate in file. Its name is the public one, and the edge is asked by the address that it listens on.
func onlyCertificate(file string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		block, _ := pem.Decode(text)
		if block == nil || len(s.PeerCertificates) == 0 || !bytes.Equal(block.Bytes, s.PeerCertificates[0].Raw) {
			return errOtherCertificate
		}
		return nil
	}}
}

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "verify", Short: "Check a grace token (standard input) offline and say what it allows until when", Args: cobra.NoArgs,
		Example: "  latchkey-edge verify --root root.pub.pem --root root-spare.pub.pem < token.txt\n  latchkey-edge verify --root root.pub.pem --at 2026-11-22T06:00:00Z < token.txt"}
	roots := cmd.Flags().StringArray("root", nil, "public root key `FILE` (SPKI PEM) as pinned in the app; may be given twice")
	lists := cmd.Flags().StringArray("revocations", nil, "`FILE` with lists of revoked keys, one on each line; may be given more than once")
	at := cmd.Flags().String("at", "", "judge at this `TIME` (RFC 3339) instead of now")
	if err := cmd.MarkFlagRequired("root"); err != nil {
		panic(err) // the flag was defined above
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		now := time.Now()
		if *at != "" {
			var err error
			if now, err = time.Parse(time.RFC3339, *at); err != nil {
				return fmt.Errorf("--at: want a time such as 2026-11-22T06:00:00Z")
			}
		}
		var texts [][]byte
		for _, path := range *roots {
			text, err := os.ReadFile(path)
			if err != nil {
				return failure{err}
			}
			texts = append(texts, text)
		}
		pinned, err := token.ParseRoots(texts...)
		if err != nil {
			return failure{err}
		}
		known, err := readRevocations(*lists, pinned)
		if err != nil {
			return failure{err}
		}
		text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), token.MaxTokenBytes+1))
		if err != nil {
			return failure{err}
		}
		claims, err := token.Inspect(strings.TrimSpace(string(text)), pinned, known, now)
		if err != nil {
			return failure{fmt.Errorf("refused: %w", err)}
		}
		_, err = io.WriteString(cmd.OutOrStdout(), "the token is genuine\n"+token.Describe(claims, now))
		return err
	}
	return cmd
}

// readRevocations reads the lists in files. One that is not genuine is an error: whoever names it means it to count.
func readRevocations(files []string, roots token.Roots) (*token.Revocations, error) {
	known := new(token.Revocations)
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for i, list := range strings.Fields(string(text)) {
			if _, err := known.Learn(list, roots); err != nil && !errors.Is(err, token.ErrRevoked) {
				return nil, fmt.Errorf("%s: list %d: %w", path, i+1, err)
			}
		}
	}
	return known, nil
}
