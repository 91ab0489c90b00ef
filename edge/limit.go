package edge

import (
	"hash/maphash"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
)

// ClientsConfig says how the edge knows who asks, and how much one may ask. A request of this machine itself is never limited: a monitor, or a proxy of which
// the edge was not told whom it speaks for.
type ClientsConfig struct {
	// TrustedProxies are the addresses (10.1.2.3) and networks (10.0.0.0/8) whose X-Forwarded-For is believed. None: the client is who is connected.
	TrustedProxies []string `config:"trusted_proxies"`

	// AddressPerSecond is how many requests a second one address may make, and ten times as many at once; of IPv6 a /64 counts as one. Zero is 200: many
	// phones stand behind one address. -1 is no limit.
	AddressPerSecond int `config:"address_per_second"`

	// AccountPerSecond is how many checks a second one account may make, on all its devices, and ten times as many at once. Zero is 20. -1 is no limit.
	AccountPerSecond int `config:"account_per_second"`
}

const (
	defaultAddressPerSecond = 200
	defaultAccountPerSecond = 20

	// maxPerSecond is the highest rate that can be set: beyond it a limit is none.
	maxPerSecond = 1_000_000

	// burstSeconds is how much of its rate a client that was silent may use at once.
	burstSeconds = 10

	// beginEvery is how often one address may have a new account made, which each costs the writers an entry of their log, and beginBurst how many at
	// once: a classroom behind one address. A phone needs one in its life.
	beginEvery = time.Second
	beginBurst = 60

	// guessEvery is how often one address may be wrong about a redemption code, and guessBurst how often at once.
	guessEvery = 10 * time.Second
	guessBurst = 30

	// maxClients is how many clients a limit counts at a time, in 1 MiB. Who is silent for burstSeconds needs no entry.
	maxClients = 65_536
	// limitWays is among how many entries one finds its place.
	limitWays = 8
	limitSets = maxClients / limitWays
)

// limit counts what each of many clients asks, in a fixed table: each entry says until when its client has used up its rate (the virtual scheduling form of
// GCRA). When more than the table holds ask at once, the one that is forgotten is he who used least.
type limit struct {
	cost  int64 // of one request, nanoseconds
	burst int64 // that a client may be ahead, nanoseconds
	began time.Time
	seed  maphash.Seed
	sets  []limitSet
}

type limitSet struct {
	mu      sync.Mutex
	clients [limitWays]uint64 // hash
	used    [limitWays]int64  // until when, nanoseconds since began
}

// newLimit returns nil, which limits nobody, for a rate below zero.
func newLimit(perSecond, otherwise int) *limit {
	if perSecond == 0 {
		perSecond = otherwise
	}
	if perSecond < 0 {
		return nil
	}
	return everySo(time.Second/time.Duration(perSecond), burstSeconds*time.Second)
}

// everySo returns a limit of one request every so often, and of burst at once: as long as they take at that rate.
func everySo(often, burst time.Duration) *limit {
	return &limit{cost: int64(often), burst: int64(burst), began: time.Now(), seed: maphash.MakeSeed(), sets: make([]limitSet, limitSets)}
}

// wait says how long a client has to wait before its next request, which it does not count.
func (l *limit) wait(client uint64) time.Duration {
	now := int64(time.Since(l.began))
	s := &l.sets[client%limitSets]
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.clients {
		if s.clients[i] == client {
			return time.Duration(max(max(s.used[i], now)+l.cost-now-l.burst, 0))
		}
	}
	return 0
}

// take counts one request of the client, and says how long it has to wait if that is one too many; 0 lets it through.
func (l *limit) take(client uint64) time.Duration {
	now := int64(time.Since(l.began))
	s := &l.sets[client%limitSets]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := 0
	for i := range s.clients {
		if s.clients[i] == client {
			at = i
			break
		}
		if s.used[i] < s.used[at] {
			at = i
		}
	}
	if s.clients[at] != client {
		s.clients[at], s.used[at] = client, 0
	}
	used := max(s.used[at], now)
	if over := used + l.cost - now - l.burst; over > 0 {
		return time.Duration(over)
	}
	s.used[at] = used + l.cost
	return 0
}

// address stands for who is at it.
func (l *limit) address(a netip.Addr) uint64 {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil { // a household or a phone has as many addresses as it likes
			a = p.Addr()
		}
	}
	return maphash.Comparable(l.seed, a.WithZone(""))
}

// account stands for the account of an environment.
func (l *limit) account(env entitlement.Environment, id entitlement.AccountID) uint64 {
	return maphash.Comparable(l.seed, struct {
		env entitlement.Environment
		id  entitlement.AccountID
	}{env, id})
}

// clients knows who asks.
type clients struct {
	proxies            []netip.Prefix
	addresses, account *limit
	begins             *limit // new accounts of an address
	guesses            *limit // wrong codes of an address
}

func newClients(cfg ClientsConfig, proxies []netip.Prefix) clients {
	return clients{proxies: proxies, begins: everySo(beginEvery, beginBurst*beginEvery), guesses: everySo(guessEvery, guessBurst*guessEvery), addresses: newLimit(cfg.AddressPerSecond, defaultAddressPerSecond), account: newLimit(cfg.AccountPerSecond, defaultAccountPerSecond)}
}

// parseProxies reads the addresses and networks; bad is the index of the first that is none, or -1.
func parseProxies(texts []string) (proxies []netip.Prefix, bad int) {
	for i, text := range texts {
		p, err := netip.ParsePrefix(text)
		if a, addrErr := netip.ParseAddr(text); err != nil && addrErr == nil {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil {
			return nil, i
		}
		proxies = append(proxies, p.Masked())
	}
	return proxies, -1
}

// of is the address of the client. Each proxy adds whom it got the request from at the end of X-Forwarded-For: the last that is no proxy of ours is the client,
// and whatever stands before it, the client may have made up.
func (c *clients) of(ctx *fasthttp.RequestCtx) netip.Addr {
	peer, ok := ctx.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	client := peer.AddrPort().Addr().Unmap()
	if len(c.proxies) == 0 || !c.trusted(client) {
		return client
	}
	lines := ctx.Request.Header.PeekAll(fasthttp.HeaderXForwardedFor)
	for i := len(lines) - 1; i >= 0; i-- {
		for rest := view(lines[i]); rest != ""; {
			cut := strings.LastIndexByte(rest, ',')
			last := strings.TrimSpace(rest[cut+1:])
			rest = rest[:max(cut, 0)]
			a, err := netip.ParseAddr(last)
			if err != nil {
				return client // what a proxy of ours did not write
			}
			if client = a.Unmap(); !c.trusted(client) {
				return client
			}
		}
	}
	return client
}

func (c *clients) trusted(a netip.Addr) bool {
	for _, p := range c.proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// local reports whether a is this machine, or nobody: a request without a connection has no address.
func local(a netip.Addr) bool { return !a.IsValid() || a.IsLoopback() || a.IsUnspecified() }

// admit counts a request of its address. It comes before anything that costs.
func (c *clients) admit(ctx *fasthttp.RequestCtx) error {
	if c.addresses == nil {
		return nil
	}
	from := c.of(ctx)
	if local(from) {
		return nil
	}
	if wait := c.addresses.take(c.addresses.address(from)); wait > 0 {
		return errAddressBusy.After(wait)
	}
	return nil
}

// admitAccount counts a check of an account. It comes before a signature is made.
func (c *clients) admitAccount(ctx *fasthttp.RequestCtx, env entitlement.Environment, id entitlement.AccountID) error {
	if c.account == nil {
		return nil
	}
	if local(c.of(ctx)) {
		return nil
	}
	if wait := c.account.take(c.account.account(env, id)); wait > 0 {
		return errAccountBusy.After(wait)
	}
	return nil
}

// admitNew counts an account that a client wants to have made.
func (c *clients) admitNew(ctx *fasthttp.RequestCtx) error {
	from := c.of(ctx)
	if local(from) {
		return nil
	}
	if wait := c.begins.take(c.begins.address(from)); wait > 0 {
		return errBeginsBusy.After(wait)
	}
	return nil
}

// admitGuess refuses who was wrong about codes too often. Only codes that there are not count.
func (c *clients) admitGuess(ctx *fasthttp.RequestCtx) error {
	from := c.of(ctx)
	if local(from) {
		return nil
	}
	if wait := c.guesses.wait(c.guesses.address(from)); wait > 0 {
		return errGuessesBusy.After(wait)
	}
	return nil
}

// wrongGuess counts a code that there is not.
func (c *clients) wrongGuess(ctx *fasthttp.RequestCtx) {
	if from := c.of(ctx); !local(from) {
		c.guesses.take(c.guesses.address(from))
	}
}

var (
	errGuessesBusy = problem.New(problem.TooManyRequests, "Too many codes from this address were wrong.")
	errBeginsBusy  = problem.New(problem.TooManyRequests, "This address asks for new sessions too often.")
	errAddressBusy = problem.New(problem.TooManyRequests, "This address asks too often.")
	errAccountBusy = problem.New(problem.TooManyRequests, "This account's devices ask too often.")
)
