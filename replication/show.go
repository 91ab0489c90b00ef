package replication

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// After a restore the cluster has a new history, and writers of the old one may come back that nobody has told. Whoever meets one shows it
// a head of the new epoch, which ends it: the signature is all that counts, so anybody may.

// shown is the newest signed head that this node has met, to be shown to writers of an older epoch.
type shown struct {
	mu     sync.Mutex
	head   Head
	signed string
}

// met notes a head and reports whether it is of an older epoch than the newest.
func (s *shown) met(v *Verifier, signed string) (outdated bool) {
	h, err := v.Head(signed, 0)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Epoch > s.head.Epoch || h.Epoch == s.head.Epoch && h.AsOf > s.head.AsOf {
		s.head, s.signed = h, signed
	}
	return h.Epoch < s.head.Epoch
}

// to shows the newest head to a writer. What becomes of it shows in what the writer answers next.
func (s *shown) to(ctx context.Context, c *Client) {
	s.mu.Lock()
	signed := s.signed
	s.mu.Unlock()
	if signed != "" {
		_ = c.ShowHead(ctx, signed)
	}
}

// ShowHead shows the writer a signed head: one of an older epoch than that stops for good. Error: ErrUnavailable.
func (c *Client) ShowHead(ctx context.Context, signed string) error {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+HeadPath, strings.NewReader(signed))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/jwt")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("show a head: %w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("show a head: %w: status %d", ErrUnavailable, resp.StatusCode)
	}
	return nil
}
