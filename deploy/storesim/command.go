package storesim

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Run runs a command line of latchkey-storesim and returns the exit code: 0 done, 1 failed, 2 wrong usage.
func Run(ctx context.Context, out, errOut io.Writer, args []string) int {
	root := Command(out)
	understood := false // flags and arguments were; cobra calls a command's function only then
	for _, cmd := range root.Commands() {
		if run := cmd.RunE; run != nil {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				understood = true
				return run(cmd, args)
			}
		}
	}
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(errOut, "latchkey-storesim:", err)
	if !understood || errors.Is(err, ErrUsage) {
		return 2
	}
	return 1
}

// Command is the command line of latchkey-storesim: serve, and one command for each action of the control API.
func Command(out io.Writer) *cobra.Command {
	base := cmp.Or(os.Getenv("LATCHKEY_STORESIM_URL"), "http://127.0.0.1:8451")
	root := &cobra.Command{Use: "latchkey-storesim", Short: "Simulate the seven payment providers under one virtual clock.", SilenceUsage: true, SilenceErrors: true}
	root.PersistentFlags().StringVar(&base, "url", base, "where a running simulation is driven; LATCHKEY_STORESIM_URL")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(out)
	c := &client{base: &base, out: out}
	root.AddCommand(serveCommand(), c.advance(), c.buy(), c.refund(), c.reverseRefund(), c.expect(), c.script(), c.chaos(), c.proof(),
		c.about("renew", "advance time until the subscription has renewed, or failed to", nil),
		c.about("resubscribe", "buy again what has ended", nil),
		c.about("cancel", "turn the renewal off", nil),
		c.about("resume", "turn the renewal on again, or end a pause", nil),
		c.about("fail-card", "let the next payments fail", nil),
		c.about("recover", "let the card work again and pay what is owed", nil),
		c.about("dispute", "dispute the last payment", nil),
		c.about("pause", "pause at the end of the term", func(q *Request, cmd *cobra.Command) { duration(cmd, &q.For, "for", "how long") }),
		c.about("extend", "move the end of the term", func(q *Request, cmd *cobra.Command) { duration(cmd, &q.For, "for", "by how much") }),
		c.about("change", "go over to another product", func(q *Request, cmd *cobra.Command) {
			cmd.Flags().StringVar(&q.Product, "product", "", "which one")
		}),
		c.about("close-dispute", "end a dispute", func(q *Request, cmd *cobra.Command) {
			cmd.Flags().StringVar(&q.Outcome, "outcome", "lost", "won or lost, for the merchant")
		}),
		c.about("settle", "end a pending payment", func(q *Request, cmd *cobra.Command) {
			cmd.Flags().StringVar(&q.Outcome, "outcome", "paid", "paid or failed")
		}),
		c.about("transfer", "move it to another customer", other), c.about("share", "let another customer use it", other), c.about("unshare", "take it from them", other),
	)
	for _, what := range []string{"clock", "purchases", "facts", "messages", "counts"} {
		root.AddCommand(&cobra.Command{Use: what, Short: "show the " + what, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return c.get(cmd.Context(), "/sim/v1/"+what)
		}})
	}
	return root
}

func other(q *Request, cmd *cobra.Command) {
	cmd.Flags().StringVar(&q.With, "with", "", "account of the other customer")
}

func duration(cmd *cobra.Command, d *Duration, name, usage string) {
	cmd.Flags().TextVar(d, name, Duration(0), usage+", as in 30d")
}

// providers is a flag that names some of them.
type providers []Provider

func (p *providers) String() string { return "" }
func (p *providers) Type() string   { return "providers" }
func (p *providers) Set(text string) error {
	for name := range strings.SplitSeq(text, ",") {
		if !Provider(name).valid() {
			return fmt.Errorf("no provider %q", name)
		}
		*p = append(*p, Provider(name))
	}
	return nil
}

// ErrUsage means that a command line makes no sense.
var ErrUsage = errors.New("wrong usage")

// ErrDiffers means that the oracle's word is not what a script expects.
var ErrDiffers = errors.New("not as expected")

// client drives a running simulation.
type client struct {
	base *string
	out  io.Writer
}

func (c *client) about(name, short string, flags func(*Request, *cobra.Command)) *cobra.Command {
	var q Request
	cmd := &cobra.Command{Use: name + " PURCHASE", Short: short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		q.Purchase = args[0]
		return c.post(cmd.Context(), name, q)
	}}
	if flags != nil {
		flags(&q, cmd)
	}
	return cmd
}

func (c *client) advance() *cobra.Command {
	return &cobra.Command{Use: "advance DURATION|TIME", Short: "move the virtual clock on: 30d, 12h, or to 2027-01-01T00:00:00Z", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		var q Request
		if _, err := time.Parse(time.RFC3339, args[0]); err == nil {
			q.Until = args[0]
		} else if q.For, err = ParseDuration(args[0]); err != nil {
			return fmt.Errorf("%w: %w", ErrUsage, err)
		}
		return c.post(cmd.Context(), "advance", q)
	}}
}

func (c *client) buy() *cobra.Command {
	var q Request
	cmd := &cobra.Command{Use: "buy", Short: "buy something", Args: cobra.NoArgs, Example: "  latchkey-storesim buy --provider apple --product com.example.pro_monthly --account acc_01JD... --as sub1",
		RunE: func(cmd *cobra.Command, _ []string) error { return c.post(cmd.Context(), "buy", q) }}
	f := cmd.Flags()
	f.StringVar((*string)(&q.Provider), "provider", "", "who tells of it")
	f.StringVar((*string)(&q.Env), "environment", string(Sandbox), "sandbox or production")
	f.StringVar(&q.Order.Product, "product", "", "the store's name of the product")
	f.StringVar(&q.Account, "account", "", "Latchkey's account id")
	f.StringVar(&q.Name, "as", "", "what the purchase is called from then on")
	f.IntVar(&q.Trial, "trial-days", 0, "days of a free trial first")
	f.IntVar(&q.OfferTerms, "offer-terms", 0, "how many paid terms, the first ones, cost less")
	f.Int64Var(&q.OfferCents, "offer-cents", 0, "what each of them costs")
	f.IntVar(&q.Quantity, "quantity", 1, "how many")
	f.StringVar(&q.Email, "email", "", "what the buyer gives at a checkout on the web")
	f.BoolVar(&q.StoreTells, "store-tells", false, "the store behind an aggregator sends its own messages too")
	f.BoolVar(&q.Pending, "pending", false, "the money comes later: settle ends it")
	return cmd
}

func (c *client) refund() *cobra.Command {
	return c.aboutTerm("refund", "give money back", func(q *Request, cmd *cobra.Command) {
		cmd.Flags().Int64Var(&q.Cents, "cents", 0, "how much; 0 is all")
	})
}

func (c *client) reverseRefund() *cobra.Command {
	return c.aboutTerm("reverse-refund", "undo a refund", func(*Request, *cobra.Command) {})
}

// aboutTerm is a command about one term of a purchase.
func (c *client) aboutTerm(name, short string, flags func(*Request, *cobra.Command)) *cobra.Command {
	term := -1
	return c.about(name, short, func(q *Request, cmd *cobra.Command) {
		cmd.Flags().IntVar(&term, "term", -1, "which term, from 0; the last one if negative")
		q.Term = &term
		flags(q, cmd)
	})
}

func (c *client) chaos() *cobra.Command {
	var chaos Chaos
	cmd := &cobra.Command{Use: "chaos", Short: "change what goes wrong; without flags nothing does", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return c.post(cmd.Context(), "chaos", Request{Chaos: &chaos})
	}}
	f := cmd.Flags()
	f.Var((*providers)(&chaos.Providers), "providers", "where: one or several, stripe,apple; all if empty")
	duration(cmd, &chaos.Hold, "hold", "hold each message for this")
	duration(cmd, &chaos.Delay, "delay", "hold each message for up to this")
	f.Float64Var(&chaos.Reorder, "reorder", 0, "share of messages held behind later ones")
	f.Float64Var(&chaos.Repeat, "repeat", 0, "share of messages that come twice")
	f.Float64Var(&chaos.Loss, "loss", 0, "share of messages that never come")
	f.Float64Var(&chaos.ServerError, "server-error", 0, "share of pulls answered with 500")
	f.Float64Var(&chaos.RateLimit, "rate-limit", 0, "share of pulls answered with 429")
	f.BoolVar(&chaos.Down, "down", false, "no provider answers or sends")
	return cmd
}

func (c *client) proof() *cobra.Command {
	return &cobra.Command{Use: "proof PURCHASE", Short: "what an app hands in as a receipt", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return c.get(cmd.Context(), "/sim/v1/proof?purchase="+url.QueryEscape(args[0]))
	}}
}

func (c *client) expect() *cobra.Command {
	env, account, entitlement := "", "", ""
	cmd := &cobra.Command{Use: "expect yes|no", Short: "fail unless the oracle says so", ValidArgs: []string{"yes", "no"}, Args: cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs), RunE: func(cmd *cobra.Command, args []string) error {
		var said struct{ Entitled bool }
		query := url.Values{"environment": {env}, "account": {account}, "entitlement": {entitlement}}
		b, err := c.do(cmd.Context(), http.MethodGet, "/sim/v1/entitled?"+query.Encode(), nil)
		if err == nil {
			err = json.Unmarshal(b, &said)
		}
		if err == nil && said.Entitled != (args[0] == "yes") {
			err = fmt.Errorf("%w: %s of %s is %t", ErrDiffers, entitlement, account, said.Entitled)
		}
		return err
	}}
	cmd.Flags().StringVar(&env, "environment", string(Sandbox), "sandbox or production")
	cmd.Flags().StringVar(&account, "account", "", "whose access")
	if err := cmd.MarkFlagRequired("account"); err != nil {
		panic(err) // it is there
	}
	cmd.Flags().StringVar(&entitlement, "entitlement", "pro", "to what")
	return cmd
}

func (c *client) script() *cobra.Command {
	return &cobra.Command{Use: "script FILE", Short: "run the commands in a file, one a line, # begins a comment; - is standard input", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		in := cmd.InOrStdin()
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		lines := bufio.NewScanner(in)
		for n := 1; lines.Scan(); n++ {
			words := strings.Fields(lines.Text())
			if len(words) == 0 || strings.HasPrefix(words[0], "#") {
				continue
			}
			line := Command(c.out)
			line.SetArgs(append(words, "--url", *c.base))
			if err := line.ExecuteContext(cmd.Context()); err != nil {
				return fmt.Errorf("%s:%d: %s: %w", args[0], n, lines.Text(), err)
			}
		}
		return lines.Err()
	}}
}

func (c *client) post(ctx context.Context, action string, q Request) error {
	b, err := c.do(ctx, http.MethodPost, "/sim/v1/"+action, encode(q))
	if err == nil {
		_, err = c.out.Write(b)
	}
	return err
}

func (c *client) get(ctx context.Context, path string) error {
	b, err := c.do(ctx, http.MethodGet, path, nil)
	if err == nil {
		_, err = c.out.Write(b)
	}
	return err
}

func (c *client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(*c.base, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		var said struct{ Error string }
		_ = json.Unmarshal(b, &said) // what is not JSON says nothing more
		err = fmt.Errorf("status %d: %s", res.StatusCode, cmp.Or(said.Error, "no reason given"))
	}
	return b, err
}

func serveCommand() *cobra.Command {
	var (
		service     = Service{Stores: map[Environment]string{}}
		config      Config
		dir, start  string
		credentials string
		production  string
		sandbox     string
		acknowledge Duration
	)
	cmd := &cobra.Command{Use: "serve", Short: "run a simulation", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		var err error
		if start != "" {
			if config.Start, err = time.Parse(time.RFC3339, start); err != nil {
				return fmt.Errorf("%w: --start: want a time as in 2026-11-22T06:00:00Z", ErrUsage)
			}
		}
		switch {
		case credentials != "":
			config.Credentials, err = ReadCredentials(credentials)
		default:
			if dir, err = filepath.Abs(dir); err == nil {
				config.Credentials, err = OpenCredentials(dir)
			}
		}
		if err != nil {
			return err
		}
		if config.Seed == 0 {
			config.Seed = rand.Uint64()
		}
		config.Rules = DefaultRules
		config.Rules.AcknowledgeWithin = time.Duration(acknowledge)
		service.Stores[Production], service.Stores[Sandbox] = production, sandbox
		service.Ready = func(control string, _ map[Environment]string) {
			fmt.Fprintf(cmd.OutOrStdout(), "driven at http://%s/sim/v1/, seed %d\n", control, config.Seed)
		}
		return service.Serve(cmd.Context(), New(config))
	}}
	f := cmd.Flags()
	f.StringVar(&service.Listen, "listen", "127.0.0.1:8451", "where it is driven")
	f.StringVar(&production, "production", "127.0.0.1:8452", "where the providers' APIs of production are; empty: under --listen alone")
	f.StringVar(&sandbox, "sandbox", "127.0.0.1:8453", "where those of the sandbox are")
	f.StringVar(&dir, "dir", ".latchkey-storesim", "folder of secrets and keys, made at the first start")
	f.StringVar(&credentials, "credentials", "", "file of secrets, instead of those in --dir")
	f.StringSliceVar(&config.Writers, "writers", nil, "addresses of the writers that take the messages; none: messages are made and not sent")
	f.Uint64Var(&config.Seed, "seed", 0, "decides every chance; 0: by lot, as ids must be where the writers remember an earlier simulation")
	f.StringVar(&start, "start", "", "virtual time of the beginning; now, if empty")
	f.Float64Var(&service.Speed, "speed", 1, "how fast virtual time passes by itself; 0: only when advanced")
	f.StringVar(&service.ClockFile, "clock-file", "", "file that always holds by how much the virtual clock is ahead")
	f.TextVar(&acknowledge, "acknowledge-within", Duration(3*day), "when Play takes back what nobody acknowledged; 0: never")
	return cmd
}
