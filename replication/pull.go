package replication

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Paths and headers of the writers' internal API.
const (
	HeadPath       = "/internal/v1/head"
	ChangesPath    = "/internal/v1/changes"
	SnapshotPath   = "/internal/v1/snapshot"
	ManifestHeader = "Latchkey-Manifest"
	NodeHeader     = "Latchkey-Node"     // who asks, for the writers' status pages alone
	RevisionHeader = "Latchkey-Revision" // what it holds, likewise, in a request for a head
)

// MaxWait is how long a writer holds a request for changes at most.
const MaxWait = 20 * time.Second

// Errors of Client that name what to do next; ErrBelowFloor is one more: take a snapshot.
var (
	// ErrOtherHistory means that the writer's history is not the one asked for: compare epochs.
	ErrOtherHistory = errors.New("writer has another history")
	// ErrUnavailable means that the writer cannot answer now: wait, or ask another.
	ErrUnavailable = errors.New("writer unavailable")
)

const (
	maxBatchBody  = MaxBatchBytes + MaxBatchBytes/2 // changes, their lengths and the signed position
	headTimeout   = 3 * time.Second
	pullGrace     = 5 * time.Second // on top of the wait asked for
	resumeTries   = 8               // of one snapshot download; each goes on where the last stopped
	stallTimeout  = 20 * time.Second
	buildTimeout  = 5 * time.Minute // until the first byte: the writer may have to read all its records first
	firstBackoff  = 50 * time.Millisecond
	backoffMax    = time.Second // 2 s with full jitter: an edge must be back within 5 s of the end of a cut
	snapshotChunk = 256 << 10
)

// NewBackoff returns the delays between attempts at a writer: exponential with full jitter, so that a thousand edges that lost one
// writer at the same moment do not come back at the same moment.
func NewBackoff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{InitialInterval: firstBackoff, RandomizationFactor: 1, Multiplier: 2, MaxInterval: backoffMax}
}

// Client pulls from one writer. It verifies nothing: all that it returns is to be judged by a Verifier.
type Client struct {
	base string
	node string
	http *http.Client
}

// NewTransport returns what a Client connects with. secure is the configuration for https:// (mutual.Identity.Config); nil believes the authorities
// that this machine believes.
func NewTransport(secure *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     secure,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
		TLSHandshakeTimeout: 3 * time.Second,
		DisableCompression:  true,
	}
}

// NewClient returns a client of the writer whose internal API is at base ("http://127.0.0.1:8421"). node names
// who asks; it may be empty, and transport nil.
func NewClient(base, node string, transport http.RoundTripper) *Client {
	if transport == nil {
		transport = NewTransport(nil)
	}
	return &Client{base: strings.TrimSuffix(base, "/"), node: node, http: &http.Client{
		Transport: transport,
		// A writer never redirects; following one would send us to a host that nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Base is the address that the client was made with.
func (c *Client) Base() string { return c.base }

// HTTP is the client below, for the other requests of the internal API.
func (c *Client) HTTP() *http.Client { return c.http }

// Head returns the writer's newest signed head. Error: ErrUnavailable.
func (c *Client) Head(ctx context.Context) (string, error) { return c.head(ctx, nil) }

func (c *Client) head(ctx context.Context, header http.Header) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	resp, err := c.get(ctx, HeadPath, header)
	if err != nil {
		return "", fmt.Errorf("head: %w", err)
	}
	defer resp.Body.Close()
	body, err := readAll(resp, maxSignedBytes)
	if err != nil {
		return "", fmt.Errorf("head: %w", err)
	}
	return strings.TrimSpace(string(body)), nil
}

// Report tells the writer what this node holds, for its status page, and returns what Head returns. Error: ErrUnavailable.
func (c *Client) Report(ctx context.Context, held Revision) (string, error) {
	return c.head(ctx, http.Header{RevisionHeader: {held.String()}})
}

// Changes returns the changes after a revision, at most limit, waiting up to wait for the first one. The batch may be empty. Errors:
// ErrBelowFloor, ErrOtherHistory, ErrUnavailable, ErrFrame.
func (c *Client) Changes(ctx context.Context, after Revision, limit int, wait time.Duration) (Batch, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+pullGrace)
	defer cancel()
	query := url.Values{
		"epoch": {strconv.FormatUint(after.Epoch, 10)},
		"after": {strconv.FormatUint(after.N, 10)},
		"limit": {strconv.Itoa(limit)},
		"wait":  {strconv.Itoa(int(wait / time.Second))},
	}
	resp, err := c.get(ctx, ChangesPath+"?"+query.Encode(), nil)
	if err != nil {
		return Batch{}, fmt.Errorf("changes after %s: %w", after, err)
	}
	defer resp.Body.Close()
	body, err := readAll(resp, maxBatchBody)
	if err != nil {
		return Batch{}, fmt.Errorf("changes after %s: %w", after, err)
	}
	batch, err := ParseBatch(body)
	if err != nil {
		return Batch{}, fmt.Errorf("changes after %s: %w", after, err)
	}
	return batch, nil
}

// Snapshot downloads the writer's newest snapshot into file, which it truncates, and returns its manifest. judge sees the signed
// manifest before anything is downloaded and says whether it is wanted. A broken download goes on where it stopped, as long as the
// writer still has the same snapshot. On return the file's size and SHA-256 are the manifest's. Errors: ErrUnavailable, ErrFrame, and
// what judge returns.
func (c *Client) Snapshot(ctx context.Context, file *os.File, judge func(signed string) (Manifest, error)) (Manifest, error) {
	var d download
	delays := NewBackoff()
	for try := 0; ; try++ {
		done, err := c.resume(ctx, file, &d, judge)
		if done {
			return d.manifest, err
		}
		// With nothing downloaded yet another writer may as well be asked.
		if try == resumeTries || d.have == 0 || ctx.Err() != nil {
			return Manifest{}, fmt.Errorf("snapshot: %w", err)
		}
		if err := pause(ctx, delayAfter(err, delays.NextBackOff())); err != nil {
			return Manifest{}, err
		}
	}
}

// download is how far a snapshot has come.
type download struct {
	signed   string
	etag     string
	manifest Manifest
	have     int64
}

// resume makes one attempt. done false with an error means that another attempt may succeed.
func (c *Client) resume(ctx context.Context, file *os.File, d *download, judge func(string) (Manifest, error)) (done bool, err error) {
	// The timer starts anew with each chunk: a large snapshot may take long, a silent peer may not.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stall := time.AfterFunc(buildTimeout, cancel)
	defer stall.Stop()
	var header http.Header
	if d.have > 0 && d.etag != "" {
		header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", d.have)}, "If-Range": {d.etag}}
	}
	resp, err := c.get(ctx, SnapshotPath, header)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if signed := resp.Header.Get(ManifestHeader); signed != d.signed {
		m, err := judge(signed)
		if err != nil {
			return true, err
		}
		if m != d.manifest { // else only signed anew
			d.etag, d.have = "", 0
		}
		d.signed, d.manifest = signed, m
	}
	if resp.StatusCode == http.StatusPartialContent {
		if d.have == 0 || !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", d.have)) {
			// Another snapshot's middle is of no use: begin again.
			*d = download{}
			return false, fmt.Errorf("snapshot changed during the download: %w", ErrUnavailable)
		}
	} else {
		d.etag, d.have = resp.Header.Get("ETag"), 0
		if err := file.Truncate(0); err != nil {
			return true, err
		}
	}
	if _, err := file.Seek(d.have, io.SeekStart); err != nil {
		return true, err
	}
	stall.Reset(stallTimeout)
	buf := make([]byte, snapshotChunk)
	for d.have < d.manifest.Size {
		n, err := resp.Body.Read(buf[:min(int64(len(buf)), d.manifest.Size-d.have)])
		if n > 0 {
			stall.Reset(stallTimeout)
			if _, err := file.Write(buf[:n]); err != nil {
				return true, err
			}
			d.have += int64(n)
		}
		if err != nil && d.have < d.manifest.Size {
			return false, fmt.Errorf("%w: after %d of %d bytes: %w", ErrUnavailable, d.have, d.manifest.Size, err)
		}
	}
	sum := sha256.New()
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return true, err
	}
	if _, err := io.CopyBuffer(sum, file, buf); err != nil {
		return true, err
	}
	if Hash(sum.Sum(nil)) != d.manifest.SHA256 {
		*d = download{}
		return false, fmt.Errorf("body does not have the manifest's SHA-256: %w", ErrFrame)
	}
	_, err = file.Seek(0, io.SeekStart)
	return true, err
}

func (c *Client) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	if c.node != "" {
		req.Header.Set(NodeHeader, c.node)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return resp, nil
	case http.StatusGone:
		err = ErrBelowFloor
	case http.StatusConflict:
		err = ErrOtherHistory
	default:
		err = &refusal{status: resp.StatusCode, after: retryAfter(resp.Header)}
	}
	_ = resp.Body.Close()
	return nil, err
}

// refusal is an answer that says: not now. It is ErrUnavailable.
type refusal struct {
	status int
	after  time.Duration
}

func (r *refusal) Error() string {
	if r.after > 0 {
		return fmt.Sprintf("%s: status %d, again after %s", ErrUnavailable, r.status, r.after)
	}
	return fmt.Sprintf("%s: status %d", ErrUnavailable, r.status)
}

// Unwrap makes it ErrUnavailable.
func (r *refusal) Unwrap() error { return ErrUnavailable }

// RetryAfter is how long the writer that answered with err asks us to stay away; 0 when it said nothing of it.
func RetryAfter(err error) time.Duration {
	if r := (*refusal)(nil); errors.As(err, &r) {
		return r.after
	}
	return 0
}

// maxRetryAfter bounds how long a writer may keep an edge away: with stale data it should ask the next one by then.
const maxRetryAfter = 30 * time.Second

// retryAfter reads the header in seconds. A date is not what writers send.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// delayAfter is how long to wait after err: the backoff, or what the writer asked for and up to as much again. Without that spread a crowd
// that was turned away together would come back together.
func delayAfter(err error, backoff time.Duration) time.Duration {
	asked := RetryAfter(err)
	if asked == 0 {
		return backoff
	}
	return max(backoff, asked+rand.N(asked))
}

// readAll reads a body of at most limit bytes, into one piece of memory where the writer says how long it is: a batch has megabytes.
func readAll(resp *http.Response, limit int64) ([]byte, error) {
	var b []byte
	var err error
	if n := resp.ContentLength; n > 0 && n <= limit {
		b = make([]byte, n)
		_, err = io.ReadFull(resp.Body, b)
	} else {
		b, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("answer of more than %d bytes: %w", limit, ErrFrame)
	}
	return b, nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
