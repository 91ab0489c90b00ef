package writer

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkWebhook takes webhooks over HTTP at all of three writers, 64 at a time, each for an account of its own: with a CPU profile
// it says what a webhook costs in which part.
func BenchmarkWebhook(b *testing.B) {
	writers := startCluster(b, 3)
	accounts := make([]string, 2000)
	for i := range accounts {
		accounts[i] = writers[0].account()
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	var n atomic.Int64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			body := event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), accounts[int(i)%len(accounts)], "price_pro"))
			r, err := sendWith(client, "POST", writers[i%3].url+"/v1/webhooks/sandbox/stripe", string(body), signed(body, stripeSecret, time.Now()))
			if err != nil || r.status != http.StatusOK {
				b.Errorf("webhook = %d %s, %v", r.status, r.text, err)
			}
		}
	})
}
