package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// Command is latchkey-bench.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:           "latchkey-bench",
		Short:         "Put load on a running Latchkey, on a schedule that does not wait for answers.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(checkCommand(), webhookCommand(), floorCommand())
	return root
}

// flags are those that both paths share.
type flags struct {
	dev         string
	rate        float64
	connections int
	lasts       time.Duration
}

func (f *flags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dev, "dev", "", "folder of a running latchkey-dev: addresses and keys are taken from there, accounts are made")
	cmd.Flags().Float64Var(&f.rate, "rate", 200, "requests a second in all; 0 sends as fast as answers come")
	cmd.Flags().IntVar(&f.connections, "connections", 16, "kept-alive connections")
	cmd.Flags().DurationVar(&f.lasts, "for", 10*time.Second, "how long")
}

func (f *flags) config(base string, status int) (Config, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" || u.Port() == "" {
		return Config{}, fmt.Errorf("%q is no address: want http://host:port", base)
	}
	if f.connections < 1 || f.rate < 0 {
		return Config{}, errors.New("want at least one connection and no negative rate")
	}
	return Config{Addr: u.Host, Connections: f.connections, For: f.lasts, Rate: f.rate, Status: status}, nil
}

// report runs the load and prints what came of it.
func report(ctx context.Context, config Config) error {
	r, err := Run(ctx, config)
	fmt.Printf("%d answers in %s, %.0f/s, %d failed\n", r.Answers, r.Elapsed.Round(time.Millisecond), r.PerSecond(), r.Failed)
	from := "from the send"
	if config.Rate > 0 {
		from = "from the scheduled send"
	}
	fmt.Printf("latency %s: p50 %s  p90 %s  p99 %s  p99.9 %s  max %s\n", from,
		r.Quantile(0.5), r.Quantile(0.9), r.Quantile(0.99), r.Quantile(0.999), r.Quantile(1))
	return err
}

func checkCommand() *cobra.Command {
	var f flags
	var edge string
	var sessions []string
	var fresh bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Ask an edge for entitlements, as apps do.",
		Example: "  latchkey-bench check --dev .latchkey-dev --rate 2000 --for 30s\n" +
			"  latchkey-bench check --edge http://127.0.0.1:8411 --session eyJ... --rate 0 --fresh",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.dev != "" {
				d, err := readDev(f.dev)
				if err != nil {
					return err
				}
				edge = d.Edges[0].URL
				for range f.connections {
					_, session, err := d.account(cmd.Context())
					if err != nil {
						return err
					}
					sessions = append(sessions, session)
				}
			}
			if edge == "" || len(sessions) == 0 {
				return errors.New("want --dev, or --edge and --session")
			}
			config, err := f.config(edge, http.StatusOK)
			if err != nil {
				return err
			}
			config.Source = Checks(config.Addr, sessions, fresh)
			return report(cmd.Context(), config)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&edge, "edge", "", "an edge's address")
	cmd.Flags().StringSliceVar(&sessions, "session", nil, "session tokens, used in turn")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "send a new nonce each time, so that every answer is signed for itself")
	return cmd
}

func webhookCommand() *cobra.Command {
	var f flags
	var writer, path, secret, env string
	var accounts []string
	cmd := &cobra.Command{
		Use:   "webhook",
		Short: "Post new subscriptions to a writer, signed as Stripe signs them. They are stored for good: use it on a test system.",
		Example: "  latchkey-bench webhook --dev .latchkey-dev --rate 200 --for 30s\n" +
			"  latchkey-bench webhook --writer http://127.0.0.1:8401 --path /v1/webhooks/sandbox/stripe --secret whsec_... --account acc_...",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.dev != "" {
				d, err := readDev(f.dev)
				if err != nil {
					return err
				}
				if d.env = env; d.Environments[env].ServerKey == "" {
					return fmt.Errorf("no environment %q", env)
				}
				hook := d.Environments[env].Webhooks["stripe"]
				writer, path, secret = d.Writers[0].URL, hook.Path, hook.Secret
				for range 64 {
					account, _, err := d.account(cmd.Context())
					if err != nil {
						return err
					}
					accounts = append(accounts, account)
				}
			}
			if writer == "" || secret == "" || len(accounts) == 0 {
				return errors.New("want --dev, or --writer, --secret and --account")
			}
			config, err := f.config(writer, http.StatusOK)
			if err != nil {
				return err
			}
			config.Source = Webhooks(config.Addr, path, secret, strconv.FormatInt(time.Now().UnixNano(), 36), accounts)
			return report(cmd.Context(), config)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&env, "env", "sandbox", "with --dev: the environment, sandbox or production")
	cmd.Flags().StringVar(&writer, "writer", "", "a writer's address")
	cmd.Flags().StringVar(&path, "path", "/v1/webhooks/sandbox/stripe", "the webhook's path")
	cmd.Flags().StringVar(&secret, "secret", "", "the webhook's secret, whsec_...")
	cmd.Flags().StringSliceVar(&accounts, "account", nil, "account ids, used in turn")
	return cmd
}

// floorCommand is for `make bench`: see serveFloor.
func floorCommand() *cobra.Command {
	var sign bool
	var size, status, refusal int
	var listen, cert, key string
	cmd := &cobra.Command{
		Use:    "floor",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return serveFloor(listen, cert, key, sign, size, status, refusal)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address")
	cmd.Flags().StringVar(&cert, "cert", "", "certificate for TLS, PEM; empty: in the clear")
	cmd.Flags().StringVar(&key, "key", "", "its private key, PEM")
	cmd.Flags().BoolVar(&sign, "sign", false, "sign before each answer")
	cmd.Flags().IntVar(&status, "status", http.StatusOK, "of an answer with a body")
	cmd.Flags().IntVar(&refusal, "refusal", 0, "bytes of a refusal, for credentials that are worth nothing; 0 refuses nobody")
	cmd.Flags().IntVar(&size, "size", 0, "bytes of the body; without a body and a signature the answer is an empty 304")
	return cmd
}

// dev is what this program needs of latchkey-dev.json.
type dev struct {
	Writers, Edges []struct{ URL string }
	Environments   map[string]struct {
		ServerKey string `json:"server_key"`
		Webhooks  map[string]struct{ Path, Secret string }
	}

	env string // that accounts are made in
}

func readDev(dir string) (*dev, error) {
	b, err := os.ReadFile(filepath.Join(dir, "latchkey-dev.json"))
	if err != nil {
		return nil, fmt.Errorf("%w: is latchkey-dev running there? %w", ErrFailed, err)
	}
	d := dev{env: "sandbox"}
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("%w: latchkey-dev.json: %w", ErrFailed, err)
	}
	if len(d.Writers) == 0 || len(d.Edges) == 0 {
		return nil, fmt.Errorf("%w: latchkey-dev.json names no writer or no edge", ErrFailed)
	}
	return &d, nil
}

// account makes an account and a session for it. Error: ErrFailed.
func (d *dev) account(ctx context.Context) (id, session string, err error) {
	var made struct {
		Account string `json:"account_id"`
		Session string `json:"session_token"`
	}
	if err := d.post(ctx, "/v1/accounts", `{"aliases":[],"attributes":{}}`, &made); err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrFailed, err)
	}
	if err := d.post(ctx, "/v1/accounts/"+made.Account+"/sessions", `{"device_id":"bench","ttl_seconds":86400}`, &made); err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return made.Account, made.Session, nil
}

func (d *dev) post(ctx context.Context, path, body string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Writers[0].URL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+d.Environments[d.env].ServerKey)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("POST %s: %d %.300s", path, res.StatusCode, text)
	}
	return json.Unmarshal(text, into)
}
