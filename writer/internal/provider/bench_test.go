package provider

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// BenchmarkWebhook is the adapter's share of one webhook: verify, parse, encode for the log.
func BenchmarkWebhook(b *testing.B) {
	body := []byte(message("customer.subscription.updated", 7, basil.subscription("active", 0)))
	s := newStripe(b, vectorSecret)
	r := Request{Header: http.Header{stripeSignatureHeader: {fmt.Sprintf("t=%d,v1=%s", vectorTime, sign(vectorTime, string(body), vectorSecret))}}, Body: body}
	now := time.Unix(vectorTime, 0)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Verify(r, now); err != nil {
			b.Fatal(err)
		}
		ev, err := s.Parse(body, entitlement.Sandbox)
		if err != nil || ev.Kind != entitlement.Proof {
			b.Fatal(ev, err)
		}
		entitlement.Encode(&ev)
	}
}
